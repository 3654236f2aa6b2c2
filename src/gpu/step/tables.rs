//! Buffers of an optimizer that no span owns, and the bind groups over them.

use std::ops::Range;

use bytemuck::{Zeroable, cast_slice};
use wgpu::BufferUsages;

use super::absent::Absent;
use super::by_line::Lines;
use super::lines::LineTables;
use super::phases::{Phase, Turns};
use super::step_table::StepTable;
use super::sums::{Stages, Sum};
use crate::config::{DynamicScale, GradientConfig, LossScale};
use crate::error::Result;
use crate::gpu::abi::{BlockRow, Control, Lane, LineSet, Partial, Settings, TensorRow, Verdict, control_bytes};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Bindings, Kind};
use crate::gpu::device::upload::Writes;
use crate::gpu::readback::download::Source;
use crate::gpu::readback::reports::FIRST_GENERATION;
use crate::plan::Plan;
use crate::plan::layout::{Layout, TensorBlock};
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
    pub weigh: wgpu::BindGroup,
    pub limit: wgpu::BindGroup,
    /// To the average, and back.
    pub swap: [wgpu::BindGroup; 2],
    pub evaluate: wgpu::BindGroup,
    pub lines: Option<Lines>,
    settings: wgpu::Buffer,
    /// What kernels look up by block, tensor, lane or line.
    tables: wgpu::Buffer,
    pub regions: Regions,
    /// Of `settings` and of the tensors.
    pub rows: LaneRows,
    turns: Turns,
    /// At least one word, each 1.
    pub ones: wgpu::Buffer,
    partials: wgpu::Buffer,
    stages: Stages,
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

/// What steps that are looked at for their health bind besides.
#[derive(Debug)]
pub struct Watch {
    pub scan: wgpu::BindGroup,
    pub sum_gradients: Sum,
    pub update: wgpu::BindGroup,
    pub sum_updates: Sum,
    pub gradient_partials: wgpu::Buffer,
    pub update_partials: wgpu::Buffer,
    /// The tensors' sums of gradients, of weights and of their change: where they lie.
    pub sums: Source,
}

pub fn prepare_bindings() -> Bindings {
    use Kind::{Read, Uniform, Write};
    vec![(0, Uniform), (1, Read), (2, Write), (3, Read), (4, Write), (5, Write)]
}

/// Of the scan that only finds non-finite elements, and counts them in the control block.
pub fn find_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (3, Kind::Write)]
}

/// Of the scan that a step has.
pub fn scan_bindings_of(gradient: &GradientConfig) -> Bindings {
    if gradient.only_finds() { find_bindings() } else { scan_bindings() }
}

pub fn scan_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (3, Kind::Write), (4, Kind::Read)]
}

/// Of the update, with values by line where there are some.
pub fn update_bindings(by_line: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read), (1, Kind::Uniform)];
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

/// Of the update that is looked at for its health.
pub fn watched_bindings(by_line: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read), (1, Kind::Uniform), (5, Kind::Write)];
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

pub fn measure_bindings(by_line: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read), (1, Kind::Uniform), (4, Kind::Write)];
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

pub fn weigh_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (3, Kind::Write)]
}

pub fn swap_bindings() -> Bindings {
    vec![(0, Kind::Read), (1, Kind::Uniform), (2, Kind::Read), (3, Kind::Uniform)]
}

pub fn evaluate_bindings(by_line: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read), (1, Kind::Uniform), (4, Kind::Read)];
    bindings.extend(by_line.then_some((6, Kind::Read)));
    bindings
}

pub fn limit_bindings() -> Bindings {
    update_bindings(false)
}

/// Sums of all tensors that there is room for: of parameters and of updates before they are made, or of whatever else a
/// step depends on, then of a look at gradients, at weights and at their change.
const SUMS: u64 = 5;

/// Of these, those that a look at the steps' health leaves.
pub const LOOK: Range<u32> = 2..5;

/// Where what kernels look up lies in one buffer, in words: the blocks first.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    tensors: u64,
    absent: u64,
    verdicts: u64,
    lanes: u64,
    sums: u64,
    line_sets: u64,
    words: u64,
}

impl Regions {
    pub fn of(plan: &Plan, layout: &Layout, lines: Option<&LineTables>) -> Self {
        let tensors = plan.tensors.len().max(1) as u64;
        let mut next = 0;
        let mut place = |count: u64, row: usize| {
            let at: u64 = next;
            next += count * (row as u64 / 4);
            at
        };
        place(layout.blocks.len().max(1) as u64, size_of::<BlockRow>());
        Self {
            tensors: place(tensors, size_of::<TensorRow>()),
            absent: place(tensors, 4),
            verdicts: place(tensors, size_of::<Verdict>()),
            lanes: place((plan.groups.len() + plan.tensors.len()) as u64, size_of::<Lane>()),
            sums: place(SUMS * tensors, size_of::<Partial>()),
            line_sets: place(lines.map_or(0, |lines| lines.sets.len()) as u64, size_of::<LineSet>()),
            words: next,
        }
    }
}

/// Bytes of each table.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    tables: u64,
    settings: u64,
    control: u64,
    loss_scale: u64,
    /// Of a word for each tensor.
    marks: u64,
    partials: u64,
    turns: u64,
}

impl Sizes {
    pub fn of(plan: &Plan, layout: &Layout, lines: Option<&LineTables>) -> Self {
        let blocks = layout.blocks.len().max(1);
        // Parts of parameters and of updates, where both are measured.
        let sets = if plan.measures() { 2 } else { 1 };
        let of = |count: usize, row: usize| (count * row) as u64;
        Self {
            tables: Regions::of(plan, layout, lines).words * 4,
            settings: of(1, size_of::<Settings>()),
            control: control_bytes(plan),
            // A uniform binding takes it too.
            loss_scale: 16,
            marks: of(plan.tensors.len().max(1), 4),
            partials: of(sets * blocks, size_of::<Partial>()),
            turns: Turns::BYTES,
        }
    }

    pub fn total(self) -> u64 {
        let Self { tables, settings, control, loss_scale, marks, partials, turns } = self;
        tables + settings + control + loss_scale + marks + partials + turns
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
        let line_tables = LineTables::new(plan, layout)?;
        let sizes = Sizes::of(plan, layout, line_tables.as_ref());
        let regions = Regions::of(plan, layout, line_tables.as_ref());
        let stages = Stages::new(gpu, layout)?;
        let storage = BufferUsages::STORAGE;
        let copied = storage | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let tables = gpu.buffer("tables", sizes.tables, copied)?;
        gpu.put(&tables, 0, cast_slice(&block_rows(layout)))?;
        let tensor_rows = tensor_rows(plan, layout);
        gpu.put(&tables, 4 * regions.tensors, cast_slice(&tensor_rows))?;
        if let Some(lines) = &line_tables {
            gpu.put(&tables, 4 * regions.line_sets, cast_slice(&lines.sets))?;
        }

        let settings_row = settings_row(plan, layout, table, &regions, stages.count());
        let settings = gpu.buffer("settings", sizes.settings, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        gpu.put(&settings, 0, bytemuck::bytes_of(&settings_row))?;

        let gradient = &plan.gradient;
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
        let ones = gpu.buffer_of("ones", cast_slice(&vec![1u32; sizes.marks as usize / 4]), BufferUsages::COPY_SRC)?;
        let partials = gpu.buffer("partials", sizes.partials, copied)?;
        let turns = Turns::new(gpu)?;

        let group =
            |label: &str, bindings: &Bindings, buffers: &[&wgpu::Buffer]| gpu.bind_all(label, bindings, buffers);
        let parts = stages.parts(&partials);
        let prepare =
            group("prepare", &prepare_bindings(), &[&settings, parts, &tables, table.buffer(), &control, &loss_scale])?;
        let sum = stages.bind(gpu, [&settings, &tables], &partials)?;
        let weigh = group("weigh", &weigh_bindings(), &[&tables, &settings, &partials])?;
        let swap = |before: Phase, after: Phase| {
            let tables = [&tables, &settings, &control].map(|buffer| buffer.as_entire_binding());
            let entries: Vec<_> = (0..).zip(tables.into_iter().chain([turns.binding(before, after)])).collect();
            gpu.bind_group("swap", &gpu.layout(&swap_bindings())?, &entries)
        };
        let swap = [swap(Phase::Training, Phase::Averaged)?, swap(Phase::Averaged, Phase::Training)?];
        let lines = match line_tables {
            Some(own) => Some(Lines::new(gpu, plan, own, [&tables, &settings])?),
            None => None,
        };
        let by_line = lines.is_some();
        // The values by line come last where there are some.
        let with = |label: &str, bindings: &Bindings, more: &[&wgpu::Buffer]| {
            let values = lines.as_ref().map(|lines| &lines.values);
            let buffers: Vec<_> = [&tables, &settings].into_iter().chain(more.iter().copied()).chain(values).collect();
            group(label, bindings, &buffers)
        };
        let evaluate = with("evaluate", &evaluate_bindings(by_line), &[&control])?;
        let limit = group("limit", &limit_bindings(), &[&tables, &settings])?;
        let measure = with("measure", &measure_bindings(by_line), &[&partials])?;
        let scan = if gradient.only_finds() {
            group("scan", &find_bindings(), &[&tables, &settings, &control])?
        } else {
            group("scan", &scan_bindings(), &[&tables, &settings, &partials, &control])?
        };
        let update = with("update", &update_bindings(by_line), &[])?;
        Ok(Self {
            control,
            loss_scale,
            prepare,
            scan,
            sum,
            measure,
            update,
            weigh,
            limit,
            swap,
            evaluate,
            lines,
            settings,
            tables,
            regions,
            rows: LaneRows { settings: settings_row, tensors: tensor_rows },
            turns,
            ones,
            partials,
            stages,
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
    pub fn watch(&self, gpu: &Gpu) -> Result<Watch> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let blocks = u64::from(self.rows.settings.blocks).max(1) * size_of::<Partial>() as u64;
        let gradient_partials = gpu.buffer("gradient parts", blocks, usage)?;
        // Of the weights before, and of their change.
        let update_partials = gpu.buffer("update parts", 2 * blocks, usage)?;
        let (tables, settings) = (&self.tables, &self.settings);
        let values = self.lines.as_ref().map(|lines| &lines.values);
        let updated: Vec<_> = [tables, settings, &update_partials].into_iter().chain(values).collect();
        let row = size_of::<Partial>() as u64 * u64::from(self.rows.settings.tensors);
        let sums = Source {
            buffer: tables.clone(),
            offset: 4 * self.regions.sums + u64::from(LOOK.start) * row,
            size: u64::from(LOOK.end - LOOK.start) * row,
        };
        Ok(Watch {
            scan: gpu.bind_all("watch", &scan_bindings(), &[tables, settings, &gradient_partials, &self.control])?,
            sum_gradients: self.stages.bind(gpu, [settings, tables], &gradient_partials)?,
            update: gpu.bind_all("watched update", &watched_bindings(self.lines.is_some()), &updated)?,
            sum_updates: self.stages.bind(gpu, [settings, tables], &update_partials)?,
            gradient_partials,
            update_partials,
            sums,
        })
    }

    /// Writes the rows that name lanes: those of the tensors at once, so that all go by the new ones or none.
    pub fn write_lanes(&self, to: &mut dyn Writes, rows: &LaneRows) -> Result<()> {
        to.put(&self.settings, 0, bytemuck::bytes_of(&rows.settings))?;
        to.put(&self.tables, 4 * self.regions.tensors, cast_slice(&rows.tensors))
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
        to.put(&self.tables, 4 * self.regions.lanes, cast_slice(&lanes))?;
        to.put(&self.tables, 4 * self.regions.verdicts, cast_slice(&verdicts))
    }

    /// Records that these tensors have no gradient in the step that follows. By copies in the encoder,
    /// not by an upload, so that it holds for this step alone, whenever it is submitted.
    pub fn mark_absent(&self, encoder: &mut wgpu::CommandEncoder, absent: &Absent) {
        if absent.is_empty() {
            return;
        }
        absent.mark(encoder, &self.ones, &self.tables, 4 * self.regions.absent);
        // No dispatch writes their parts of the norm.
        encoder.clear_buffer(&self.partials, 0, None);
    }

    /// Records the end of [`Tables::mark_absent`].
    pub fn unmark_absent(&self, encoder: &mut wgpu::CommandEncoder, absent: &Absent) {
        if !absent.is_empty() {
            encoder.clear_buffer(&self.tables, 4 * self.regions.absent, Some(self.ones.size()));
        }
    }
}

fn block_rows(layout: &Layout) -> Vec<BlockRow> {
    let row = |b: &TensorBlock| BlockRow {
        tensor: b.tensor as u32,
        // Only its bits matter, to tell blocks of one tensor apart.
        number: b.number as u32,
        len: b.len,
        start: b.start,
        state: b.state,
        partial: b.partial,
        spare: [0; 2],
    };
    layout.blocks.iter().map(row).collect()
}

fn tensor_rows(plan: &Plan, layout: &Layout) -> Vec<TensorRow> {
    let row = |t: usize| {
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
    };
    (0..plan.tensors.len()).map(row).collect()
}

fn settings_row(plan: &Plan, layout: &Layout, table: &StepTable, regions: &Regions, parts: u32) -> Settings {
    let [rates_at, factors_at, factor_rows] = table.places();
    let gradient = &plan.gradient;
    let dynamic = match gradient.loss_scale {
        Some(LossScale::Dynamic(dynamic)) => dynamic,
        _ => DynamicScale::default(),
    };
    let ema = plan.ema.clone().unwrap_or_default();
    Settings {
        blocks: layout.blocks.len() as u32,
        parts,
        tensors: plan.tensors.len() as u32,
        lanes: table.lanes(),
        tensors_at: regions.tensors as u32,
        absent_at: regions.absent as u32,
        verdicts_at: regions.verdicts as u32,
        lanes_at: regions.lanes as u32,
        sums_at: regions.sums as u32,
        line_sets_at: regions.line_sets as u32,
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
    }
}
