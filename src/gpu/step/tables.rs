//! Buffers of an optimizer that no span owns.

use bytemuck::{Zeroable, cast_slice};
use wgpu::BufferUsages;

use super::absent::Absent;
use super::by_line::{LineSum, Lines};
use super::lines::LineTables;
use super::phases::{Phase, PhaseChanges};
use super::step_table::StepTable;
use super::sums::Groups;
use crate::config::{DynamicScale, LossScale, NoiseConfig};
use crate::error::{Error, Result};
use crate::gpu::abi::{BlockRow, Control, Decision, LineSet, Partial, Settings, TensorRow, Track, control_bytes};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::layout_of;
use crate::gpu::device::upload::Writes;
use crate::gpu::readback::download::Source;
use crate::gpu::readback::reports::FIRST_GENERATION;
use crate::plan::layout::{Layout, TensorBlock};
use crate::plan::{Pass, Per, Plan};
use crate::rule::hyper::Scalars;
use crate::shader;
use crate::shader::{Bound, ByLine, Parts, Table};

#[derive(Debug)]
pub struct Tables {
    pub control: wgpu::Buffer,
    pub loss_scale: wgpu::Buffer,
    pub lines: Option<Lines>,
    settings: wgpu::Buffer,
    /// What kernels look up by block, tensor, track or line.
    tables: wgpu::Buffer,
    step_table: wgpu::Buffer,
    regions: Regions,
    /// Of `settings` and of the tensors.
    pub rows: TrackRows,
    turns: PhaseChanges,
    /// At least one word, each 1.
    pub ones: wgpu::Buffer,
    partials: wgpu::Buffer,
    groups: Option<Groups>,
    watch: Option<Watch>,
}

/// The rows that name tracks of the step table.
#[derive(Debug, Clone)]
pub struct TrackRows {
    settings: Settings,
    tensors: Vec<TensorRow>,
}

impl TrackRows {
    /// Sends a tensor to another of so many tracks.
    pub fn set(&mut self, tensor: usize, track: u32, tracks: u32) {
        self.settings.tracks = tracks;
        self.tensors[tensor].track = track;
    }
}

/// Parts that steps leave that are looked at for their health.
#[derive(Debug)]
struct Watch {
    gradients: wgpu::Buffer,
    /// Of the weights before, and of their change.
    updates: wgpu::Buffer,
}

/// Where what kernels look up lies in one buffer, in words: the blocks first.
#[derive(Debug, Clone, Copy)]
pub struct Regions {
    tensors: u64,
    absent: u64,
    decisions: u64,
    tracks: u64,
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
            decisions: place(tensors, size_of::<Decision>()),
            tracks: place((plan.groups.len() + plan.tensors.len()) as u64, size_of::<Track>()),
            sums: place(u64::from(shader::SUMS) * tensors, size_of::<Partial>()),
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
            turns: PhaseChanges::BYTES,
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
        let groups = Groups::new(gpu, layout)?;
        let storage = BufferUsages::STORAGE;
        let copied = storage | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let tables = gpu.buffer("tables", sizes.tables, copied)?;
        gpu.put(&tables, 0, cast_slice(&block_rows(plan, layout)))?;
        let tensor_rows = tensor_rows(plan, layout);
        gpu.put(&tables, 4 * regions.tensors, cast_slice(&tensor_rows))?;
        if let Some(lines) = &line_tables {
            gpu.put(&tables, 4 * regions.line_sets, cast_slice(&lines.sets))?;
        }

        let settings_row = settings_row(plan, layout, table, &regions, layout.parts() as u32);
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
        let turns = PhaseChanges::new(gpu)?;

        let lines = line_tables.map(|lines| Lines::new(gpu, lines)).transpose()?;
        Ok(Self {
            control,
            loss_scale,
            lines,
            settings,
            tables,
            step_table: table.buffer().clone(),
            regions,
            rows: TrackRows { settings: settings_row, tensors: tensor_rows },
            turns,
            ones,
            partials,
            groups,
            watch: None,
        })
    }

    /// Binds those in group 0.
    pub fn bind(&self, gpu: &Gpu, tables: &[Bound]) -> Result<wgpu::BindGroup> {
        let resource = |(table, _): &Bound| {
            self.resource(*table).ok_or_else(|| Error::Device {
                what: "a bind group".to_owned(),
                reason: format!("there is no {table:?}"),
            })
        };
        let entries = tables.iter().map(resource).collect::<Result<Vec<_>>>()?;
        let entries: Vec<_> = (0..).zip(entries).collect();
        gpu.bind_group("tables", &gpu.layout(&layout_of(tables))?, &entries)
    }

    /// What is bound as that table, if there is such.
    fn resource(&self, table: Table) -> Option<wgpu::BindingResource<'_>> {
        let buffer = match table {
            Table::Settings => &self.settings,
            Table::Tables => &self.tables,
            Table::Control | Table::ControlWords => &self.control,
            Table::StepTable => &self.step_table,
            Table::LossScale => &self.loss_scale,
            Table::BlockParts(Parts::Step) => &self.partials,
            Table::BlockParts(Parts::Gradients) => &self.watch.as_ref()?.gradients,
            Table::BlockParts(Parts::Updates) => &self.watch.as_ref()?.updates,
            // Each sum is done with the groups' parts before the next begins.
            Table::Parts(parts) => match &self.groups {
                Some(groups) => &groups.parts,
                None => return self.resource(Table::BlockParts(parts)),
            },
            Table::Groups => &self.groups.as_ref()?.table,
            Table::GroupParts => &self.groups.as_ref()?.parts,
            Table::LineJobs(by) => &self.line_sum(by)?.jobs_buffer,
            Table::LineFolds(by) => &self.line_sum(by)?.folds_buffer,
            Table::LineParts => &self.lines.as_ref()?.partials,
            Table::LineValues => &self.lines.as_ref()?.values,
            Table::PhaseChange { back: false } => return Some(self.turn(Phase::Training, Phase::Averaged)),
            Table::PhaseChange { back: true } => return Some(self.turn(Phase::Averaged, Phase::Training)),
        };
        Some(buffer.as_entire_binding())
    }

    /// Whether there is what a pass that goes by no span is run over.
    pub fn serves(&self, pass: Pass) -> bool {
        match pass.spec().per {
            Per::Groups => self.groups.is_some(),
            Per::Values | Per::Folds => self.line_sum(shader::lines_of(pass)).is_some(),
            Per::Once | Per::Tensors | Per::Blocks | Per::Lines => true,
        }
    }

    /// What goes by those lines.
    pub fn line_sum(&self, by: ByLine) -> Option<&LineSum> {
        let lines = self.lines.as_ref()?;
        match by {
            ByLine::Units => lines.units.as_ref(),
            ByLine::Gradients => lines.gradients.as_ref(),
            ByLine::Rows => lines.rows.as_ref(),
        }
    }

    /// Parts of a sum that the tensors' sums are made of.
    pub fn parts(&self) -> u32 {
        self.rows.settings.parts
    }

    /// What a kernel binds that runs where that phase is to follow that one.
    pub fn turn(&self, before: Phase, after: Phase) -> wgpu::BindingResource<'_> {
        self.turns.binding(before, after)
    }

    /// Allocates what looks at the steps' health leave, once.
    pub fn watch(&mut self, gpu: &Gpu) -> Result<()> {
        if self.watch.is_none() {
            let blocks = u64::from(self.rows.settings.blocks).max(1) * size_of::<Partial>() as u64;
            let buffer = |label, bytes| gpu.buffer(label, bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST);
            self.watch = Some(Watch {
                gradients: buffer("gradient parts", blocks)?,
                updates: buffer("update parts", 2 * blocks)?,
            });
        }
        Ok(())
    }

    /// Records that a tensor which has no part in a step that is looked at does not show that of an earlier one.
    pub fn clear_looks(&self, encoder: &mut wgpu::CommandEncoder) {
        for buffer in self.watch.iter().flat_map(|watch| [&watch.gradients, &watch.updates]) {
            encoder.clear_buffer(buffer, 0, None);
        }
    }

    /// Where a look at the steps' health leaves the tensors' sums: of gradients, of weights and of their change.
    pub fn looks(&self) -> Source {
        let row = size_of::<Partial>() as u64 * u64::from(self.rows.settings.tensors);
        Source {
            buffer: self.tables.clone(),
            offset: 4 * self.regions.sums + u64::from(shader::LOOK.start) * row,
            size: u64::from(shader::LOOK.end - shader::LOOK.start) * row,
        }
    }

    /// Writes the rows that name tracks: those of the tensors at once, so that all go by the new ones or none.
    pub fn write_tracks(&self, to: &mut dyn Writes, rows: &TrackRows) -> Result<()> {
        to.put(&self.settings, 0, bytemuck::bytes_of(&rows.settings))?;
        to.put(&self.tables, 4 * self.regions.tensors, cast_slice(&rows.tensors))
    }

    /// Writes what `prepare` would have left of the last step, for what is recorded before the next: the tracks' scalars
    /// and, with the counts that the tensors have, their decisions.
    pub fn write_last_step(
        &self,
        to: &mut dyn Writes,
        rows: &TrackRows,
        scalars: &[Scalars],
        counts: &[u32],
    ) -> Result<()> {
        let tracks: Vec<_> =
            scalars.iter().map(|row| Track { scalars: row.map(|x| x as f32), ..Track::zeroed() }).collect();
        let decision = |(row, count): (&TensorRow, &u32)| Decision {
            track: row.track,
            elements: row.elements,
            key: row.key,
            steps: count.saturating_sub(1),
            ..Decision::zeroed()
        };
        let decisions: Vec<_> = rows.tensors.iter().zip(counts).map(decision).collect();
        to.put(&self.tables, 4 * self.regions.tracks, cast_slice(&tracks))?;
        to.put(&self.tables, 4 * self.regions.decisions, cast_slice(&decisions))
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

fn block_rows(plan: &Plan, layout: &Layout) -> Vec<BlockRow> {
    let row = |b: &TensorBlock| BlockRow {
        tensor: b.tensor as u32,
        // Only its bits matter, to tell blocks of one tensor apart.
        number: b.number as u32,
        len: b.len,
        start: b.start,
        state: b.state,
        partial: b.partial,
        unclipped: (!plan.is_clipped(b.tensor)).into(),
        spare: 0,
    };
    layout.blocks.iter().map(row).collect()
}

fn tensor_rows(plan: &Plan, layout: &Layout) -> Vec<TensorRow> {
    let row = |t: usize| {
        let live = plan.is_live(t);
        let [first_partial, partials] = if live { layout.parts_of(t) } else { [0; 2] };
        TensorRow {
            track: plan.tensors[t].group as u32,
            live: live.into(),
            first_partial,
            partials,
            elements: plan.tensors[t].elements as f32,
            averages: (live && plan.variant_of(t).averages()).into(),
            key: plan.noise_key(t),
            unclipped: (!plan.is_clipped(t)).into(),
            noise_key: plan.normal_key(t),
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
        tracks: table.tracks(),
        tensors_at: regions.tensors as u32,
        absent_at: regions.absent as u32,
        decisions_at: regions.decisions as u32,
        tracks_at: regions.tracks as u32,
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
        ema_decay: ema.decay as f32,
        ema_weight: (1.0 - ema.decay) as f32,
        noise: plan.noise.as_ref().map_or(0.0, NoiseConfig::root) as f32,
    }
}
