//! Buffers of an optimizer that no span owns, and the bind groups over them.

use bytemuck::{Zeroable, cast_slice};
use wgpu::BufferUsages;

use super::absent::Absent;
use super::by_line;
use super::by_line::Lines;
use super::lines::LineTables;
use super::phases::{Phase, Turns};
use super::step_table::StepTable;
use super::sums::{Stages, Sum};
use crate::config::{DynamicScale, GradientConfig, LossScale};
use crate::error::Result;
use crate::gpu::abi::{BlockRow, Control, Lane, Partial, Settings, TensorRow, Verdict, control_bytes};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Bindings, Kind};
use crate::gpu::device::upload::Writes;
use crate::gpu::readback::reports::FIRST_GENERATION;
use crate::plan::Plan;
use crate::plan::layout::Layout;
use crate::rule::hyper::Scalars;

#[derive(Debug)]
pub struct Tables {
    pub control: wgpu::Buffer,
    pub loss_scale: wgpu::Buffer,
    pub prepare: wgpu::BindGroup,
    pub scan: wgpu::BindGroup,
    pub sum: Sum,
    pub measure: wgpu::BindGroup,
    pub update: wgpu::BindGroup,
    pub update_by_sums: wgpu::BindGroup,
    pub weigh: wgpu::BindGroup,
    pub limit: wgpu::BindGroup,
    /// To the average, and back.
    pub swap: [wgpu::BindGroup; 2],
    pub evaluate: wgpu::BindGroup,
    pub lines: Option<Lines>,
    settings: wgpu::Buffer,
    tensors: wgpu::Buffer,
    /// Of `settings` and `tensors`.
    pub rows: LaneRows,
    absent: wgpu::Buffer,
    turns: Turns,
    /// At least one word, each 1.
    pub ones: wgpu::Buffer,
    partials: wgpu::Buffer,
    stages: Stages,
    shared: Shared,
}

/// The rows that name lanes of the step table.
#[derive(Debug, Clone)]
pub struct LaneRows {
    settings: Settings,
    tensors: Vec<TensorRow>,
}

impl LaneRows {
    /// Sends a tensor to another of so many lanes.
    pub fn set(&mut self, tensor: usize, lane: u32, lanes: u32) {
        self.settings.lanes = lanes;
        self.tensors[tensor].lane = lane;
    }
}

/// Buffers that further bind groups are made of.
#[derive(Debug)]
struct Shared {
    blocks: wgpu::Buffer,
    verdicts: wgpu::Buffer,
    lanes: wgpu::Buffer,
}

/// What steps that are looked at for their health bind besides.
#[derive(Debug)]
pub struct Watch {
    pub scan: wgpu::BindGroup,
    pub sum_gradients: Sum,
    /// Of what updates add up to before they are made, for steps that depend on it.
    pub sum_measures: Sum,
    pub update: wgpu::BindGroup,
    pub sum_updates: Sum,
    pub gradient_partials: wgpu::Buffer,
    pub update_partials: wgpu::Buffer,
    pub gradient_sums: wgpu::Buffer,
    pub update_sums: wgpu::Buffer,
}

pub fn prepare_bindings() -> Bindings {
    use Kind::{Read, Uniform, Write};
    vec![(0, Uniform), (1, Read), (2, Read), (3, Read), (4, Read), (5, Write), (6, Write), (7, Write), (8, Write)]
}

/// Of the scan that only finds non-finite elements, and counts them in the control block.
pub fn find_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Write)]
}

/// Of the scan that a step has.
pub fn scan_bindings_of(gradient: &GradientConfig) -> Bindings {
    if gradient.only_finds() { find_bindings() } else { scan_bindings() }
}

pub fn scan_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Write), (4, Kind::Read)]
}

/// Of the update, with the tensors' sums where its steps depend on them, and values by line where
/// there are some.
pub fn update_bindings(by_sums: bool, by_line: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Read)];
    bindings.extend(by_sums.then_some((4, Kind::Read)));
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

/// Of the update that is looked at for its health: sums and parts share a binding.
pub fn watched_bindings(by_line: bool) -> Bindings {
    let mut bindings = update_bindings(false, false);
    bindings.push((5, Kind::Write));
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

pub fn measure_bindings(by_line: bool) -> Bindings {
    let mut bindings = update_bindings(false, false);
    bindings.push((4, Kind::Write));
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

pub fn weigh_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Write)]
}

pub fn swap_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Uniform)]
}

pub fn evaluate_bindings(by_line: bool) -> Bindings {
    update_bindings(true, by_line)
}

pub fn limit_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Read)]
}

/// Bytes of each table.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    blocks: u64,
    tensors: u64,
    settings: u64,
    control: u64,
    loss_scale: u64,
    lanes: u64,
    verdicts: u64,
    /// Of a word for each tensor; there are two.
    marks: u64,
    partials: u64,
    sums: u64,
    turns: u64,
}

impl Sizes {
    pub fn of(plan: &Plan, layout: &Layout) -> Self {
        let (blocks, tensors) = (layout.blocks.len().max(1), plan.tensors.len().max(1));
        // Parts and sums of parameters and of updates, where both are measured.
        let sets = if plan.measures() { 2 } else { 1 };
        let of = |count: usize, row: usize| (count * row) as u64;
        Self {
            blocks: of(blocks, size_of::<BlockRow>()),
            tensors: of(tensors, size_of::<TensorRow>()),
            settings: of(1, size_of::<Settings>()),
            control: control_bytes(plan),
            // A uniform binding takes it too.
            loss_scale: 16,
            lanes: of(plan.groups.len() + plan.tensors.len(), size_of::<Lane>()),
            verdicts: of(tensors, size_of::<Verdict>()),
            marks: of(tensors, 4),
            partials: of(sets * blocks, size_of::<Partial>()),
            sums: of(sets * tensors, size_of::<Partial>()),
            turns: Turns::BYTES,
        }
    }

    pub fn total(self) -> u64 {
        let Self { blocks, tensors, settings, control, loss_scale, lanes, verdicts, marks, partials, sums, turns } =
            self;
        blocks + tensors + settings + control + loss_scale + lanes + verdicts + 2 * marks + partials + sums + turns
    }
}

impl Tables {
    /// With the loss scale in that buffer, as it is; a new one where there is none.
    pub fn new(
        gpu: &Gpu,
        plan: &Plan,
        layout: &Layout,
        table: &StepTable,
        loss_scale: Option<wgpu::Buffer>,
    ) -> Result<Self> {
        let sizes = Sizes::of(plan, layout);
        let rows: Vec<_> = layout
            .blocks
            .iter()
            .map(|b| BlockRow {
                tensor: b.tensor as u32,
                // Only its bits matter, to tell blocks of one tensor apart.
                number: b.number as u32,
                len: b.len,
                start: b.start,
                state: b.state,
                partial: b.partial,
                spare: [0; 2],
            })
            .collect();
        let stages = Stages::new(gpu, layout)?;
        let storage = BufferUsages::STORAGE;
        let blocks = gpu.buffer("blocks", sizes.blocks, storage | BufferUsages::COPY_DST)?;
        gpu.put(&blocks, 0, cast_slice(&rows))?;
        let tensor_rows: Vec<_> = (0..plan.tensors.len())
            .map(|t| {
                let live = plan.is_live(t);
                let [first_partial, partials] = if live { layout.parts_of(t) } else { [0; 2] };
                TensorRow {
                    lane: plan.tensors[t].group as u32,
                    live: live.into(),
                    first_partial,
                    partials,
                    elements: plan.tensors[t].elements as f32,
                    averages: (live && plan.variant_of(t).averages()).into(),
                    key: plan.noise_key(t),
                    spare: 0,
                }
            })
            .collect();
        let tensors = gpu.buffer("tensors", sizes.tensors, storage | BufferUsages::COPY_DST)?;
        gpu.put(&tensors, 0, cast_slice(&tensor_rows))?;

        let [rates_at, factors_at, factor_rows] = table.places();
        let gradient = &plan.gradient;
        let dynamic = match gradient.loss_scale {
            Some(LossScale::Dynamic(dynamic)) => dynamic,
            _ => DynamicScale::default(),
        };
        let ema = plan.ema.clone().unwrap_or_default();
        let settings_row = Settings {
            blocks: rows.len() as u32,
            parts: stages.count(),
            tensors: plan.tensors.len() as u32,
            lanes: table.lanes(),
            rates_at,
            factors_at,
            factor_rows,
            clip_value: gradient.clip_value.unwrap_or(0.0) as f32,
            norm_limit: gradient.norm_limit().unwrap_or(0.0) as f32,
            weight_clip: plan.weights.clip_value.unwrap_or(0.0) as f32,
            weight_limit: plan.weights.tensor_limit().unwrap_or(0.0) as f32,
            accumulate: gradient.accumulate as u32,
            mean: gradient.mean() as f32,
            growth_interval: dynamic.growth_interval,
            growth_factor: dynamic.growth_factor as f32,
            backoff_factor: dynamic.backoff_factor as f32,
            ema_interval: ema.interval as u32,
            ema_weight: (1.0 - ema.decay) as f32,
        };
        let settings = gpu.buffer("settings", sizes.settings, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        gpu.put(&settings, 0, bytemuck::bytes_of(&settings_row))?;

        let copied = storage | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let control = gpu.buffer("control", sizes.control, copied)?;
        let scale = gradient.initial_scale();
        let start = Control {
            loss_scale: scale as f32,
            unscale: gradient.unscale(scale) as f32,
            generation: FIRST_GENERATION,
            ..Control::default()
        };
        gpu.put(&control, 0, bytemuck::bytes_of(&start))?;
        let loss_scale = match loss_scale {
            Some(buffer) => buffer,
            None => {
                let buffer = gpu.buffer("loss scale", sizes.loss_scale, copied | BufferUsages::UNIFORM)?;
                gpu.put(&buffer, 0, bytemuck::bytes_of(&(scale as f32)))?;
                buffer
            }
        };
        let written = storage | BufferUsages::COPY_DST;
        let lanes = gpu.buffer("lanes", sizes.lanes, written)?;
        let verdicts = gpu.buffer("verdicts", sizes.verdicts, written)?;
        let absent = gpu.buffer("absent", sizes.marks, copied)?;
        let ones = gpu.buffer_of("ones", cast_slice(&vec![1u32; sizes.marks as usize / 4]), BufferUsages::COPY_SRC)?;
        let partials = gpu.buffer("partials", sizes.partials, copied)?;
        let sums = gpu.buffer("sums", sizes.sums, copied)?;

        let turns = Turns::new(gpu)?;

        let group =
            |label: &str, bindings: &Bindings, buffers: &[&wgpu::Buffer]| gpu.bind_all(label, bindings, buffers);
        let parts = if gradient.by_tensor() { &sums } else { stages.parts(&partials) };
        let prepare = group(
            "prepare",
            &prepare_bindings(),
            &[&settings, parts, &tensors, &absent, table.buffer(), &control, &lanes, &verdicts, &loss_scale],
        )?;
        let sum = stages.bind(gpu, [&settings, &tensors], partials.as_entire_binding(), sums.as_entire_binding())?;
        let weigh = group("weigh", &weigh_bindings(), &[&blocks, &settings, &verdicts, &partials])?;
        let swap = |before: Phase, after: Phase| {
            let tables = [&blocks, &settings, &control].map(|buffer| buffer.as_entire_binding());
            let entries: Vec<_> = (0..).zip(tables.into_iter().chain([turns.binding(before, after)])).collect();
            gpu.bind_group("swap", &gpu.layout(&swap_bindings())?, &entries)
        };
        let swap = [swap(Phase::Training, Phase::Averaged)?, swap(Phase::Averaged, Phase::Training)?];
        let lines = match LineTables::new(plan, layout)? {
            Some(tables) => {
                let shared = by_line::Shared { settings: &settings, verdicts: &verdicts, lanes: &lanes };
                Some(Lines::new(gpu, plan, tables, &shared)?)
            }
            None => None,
        };
        let by_line = lines.is_some();
        let of_blocks = [&blocks, &settings, &verdicts, &lanes];
        // The values by line come last where there are some.
        let with = |more: &[&wgpu::Buffer]| -> Vec<wgpu::Buffer> {
            let values = lines.as_ref().map(|lines| &lines.values);
            of_blocks.into_iter().chain(more.iter().copied()).chain(values).cloned().collect()
        };
        let group_with = |label: &str, bindings: &Bindings, more: &[&wgpu::Buffer]| {
            let buffers = with(more);
            group(label, bindings, &buffers.iter().collect::<Vec<_>>())
        };
        let evaluate = group_with("evaluate", &evaluate_bindings(by_line), &[&control])?;
        let limit = group("limit", &limit_bindings(), &[&blocks, &settings, &verdicts, &sums])?;
        let measure = group_with("measure", &measure_bindings(by_line), &[&partials])?;
        let update_by_sums = group_with("update by sums", &update_bindings(true, by_line), &[&sums])?;
        let scan = if gradient.only_finds() {
            group("scan", &find_bindings(), &[&blocks, &settings, &absent, &control])?
        } else {
            group("scan", &scan_bindings(), &[&blocks, &settings, &absent, &partials, &control])?
        };
        let update = group_with("update", &update_bindings(false, by_line), &[])?;
        Ok(Self {
            control,
            loss_scale,
            prepare,
            scan,
            sum,
            measure,
            update,
            update_by_sums,
            weigh,
            limit,
            swap,
            evaluate,
            lines,
            settings,
            tensors,
            rows: LaneRows { settings: settings_row, tensors: tensor_rows },
            absent,
            turns,
            ones,
            partials,
            stages,
            shared: Shared { blocks, verdicts, lanes },
        })
    }

    /// Parts of a sum that the tensors' sums are made of.
    pub fn parts(&self) -> u32 {
        self.rows.settings.parts
    }

    /// What a kernel binds that runs where that phase is to follow that one.
    pub fn turn(&self, before: Phase, after: Phase) -> wgpu::BindingResource<'_> {
        self.turns.binding(before, after)
    }

    /// Allocates what looks at the steps' health.
    pub fn watch(&self, gpu: &Gpu, plan: &Plan) -> Result<Watch> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let blocks = u64::from(self.rows.settings.blocks).max(1) * size_of::<Partial>() as u64;
        let tensors = plan.tensors.len().max(1) as u64 * size_of::<Partial>() as u64;
        let gradient_partials = gpu.buffer("gradient parts", blocks, usage)?;
        // The sums of updates, then, where a binding can start, the parts of the weights before and of
        // their change: `parts_at` in `shaders/health.wgsl`.
        let parts_at = (2 * tensors).next_multiple_of(256);
        let update_partials = gpu.buffer("update parts", parts_at + 2 * blocks, usage)?;
        let gradient_sums = gpu.buffer("gradient sums", tensors, usage)?;
        let update_sums = gpu.buffer("update sums", 2 * tensors, usage)?;
        let Shared { blocks: block_rows, verdicts, lanes } = &self.shared;
        let (settings, rows) = (&self.settings, &self.tensors);
        let scanned = [block_rows, settings, &self.absent, &gradient_partials, &self.control];
        let values = self.lines.as_ref().map(|lines| &lines.values);
        let updated = [block_rows, settings, verdicts, lanes, &update_partials].into_iter().chain(values);
        let part = |buffer, offset, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(size) })
        };
        let sum = |parts: wgpu::BindingResource<'_>, sums: wgpu::BindingResource<'_>| {
            self.stages.bind(gpu, [settings, rows], parts, sums)
        };
        Ok(Watch {
            scan: gpu.bind_all("watch", &scan_bindings(), &scanned)?,
            sum_gradients: sum(gradient_partials.as_entire_binding(), gradient_sums.as_entire_binding())?,
            sum_measures: sum(self.partials.as_entire_binding(), part(&update_partials, 0, 2 * tensors))?,
            update: gpu.bind_all(
                "watched update",
                &watched_bindings(self.lines.is_some()),
                &updated.collect::<Vec<_>>(),
            )?,
            sum_updates: sum(part(&update_partials, parts_at, 2 * blocks), update_sums.as_entire_binding())?,
            gradient_partials,
            update_partials,
            gradient_sums,
            update_sums,
        })
    }

    /// Writes the rows that name lanes: those of the tensors at once, so that all go by the new ones or none.
    pub fn write_lanes(&self, to: &mut dyn Writes, rows: &LaneRows) -> Result<()> {
        to.put(&self.settings, 0, bytemuck::bytes_of(&rows.settings))?;
        to.put(&self.tensors, 0, cast_slice(&rows.tensors))
    }

    /// Writes what `prepare` would have left of the last step, for what is recorded before the next: the lanes' scalars
    /// and, with the counts that the tensors have, their verdicts.
    pub fn write_last_step(
        &self,
        to: &mut dyn Writes,
        rows: &LaneRows,
        scalars: &[Scalars],
        counts: &[u32],
    ) -> Result<()> {
        let lanes: Vec<_> =
            scalars.iter().map(|row| Lane { scalars: row.map(|x| x as f32), ..Lane::zeroed() }).collect();
        let verdict = |(row, count): (&TensorRow, &u32)| Verdict {
            lane: row.lane,
            elements: row.elements,
            key: row.key,
            steps: count.saturating_sub(1),
            ..Verdict::zeroed()
        };
        let verdicts: Vec<_> = rows.tensors.iter().zip(counts).map(verdict).collect();
        to.put(&self.shared.lanes, 0, cast_slice(&lanes))?;
        to.put(&self.shared.verdicts, 0, cast_slice(&verdicts))
    }

    /// Records that these tensors have no gradient in the step that follows. By copies in the encoder,
    /// not by an upload, so that it holds for this step alone, whenever it is submitted.
    pub fn mark_absent(&self, encoder: &mut wgpu::CommandEncoder, absent: &Absent) {
        if absent.is_empty() {
            return;
        }
        absent.mark(encoder, &self.ones, &self.absent);
        // No dispatch writes their parts of the norm.
        encoder.clear_buffer(&self.partials, 0, None);
    }

    /// Records the end of [`Tables::mark_absent`].
    pub fn unmark_absent(&self, encoder: &mut wgpu::CommandEncoder, absent: &Absent) {
        if !absent.is_empty() {
            encoder.clear_buffer(&self.absent, 0, None);
        }
    }
}
