//! Buffers, bind groups and pipelines of what goes by lines of tensors.

use bytemuck::cast_slice;
use wgpu::BufferUsages;

use super::bindings;
use super::lines::{LineTables, Stage};
use crate::error::Result;
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Author, Bindings, Kind, Wanted};
use crate::plan::{Plan, Variant};
use crate::shader;
use crate::shader::ByLine;

/// What goes by lines, ready to record.
#[derive(Debug)]
pub struct Lines {
    pub tables: LineTables,
    /// Values by line, the headers first.
    pub values: wgpu::Buffer,
    /// What goes by units, by rows and columns, and by the rows' averages.
    pub units: Option<LineSum>,
    pub gradients: Option<LineSum>,
    pub rows: Option<LineSum>,
    /// Adds the rows' averages up; the other sums are the spans' own.
    pub sum_rows: wgpu::ComputePipeline,
    pub fold: wgpu::ComputePipeline,
    /// For pipelines whose first group is empty.
    pub nothing: wgpu::BindGroup,
}

/// One sum along lines, and what is made of it.
#[derive(Debug)]
pub struct LineSum {
    pub tables: wgpu::BindGroup,
    pub fold: wgpu::BindGroup,
    pub folds: u32,
    /// Of sums that do not go by spans.
    pub jobs: u32,
}

pub fn sum_bindings(reads_values: bool) -> Bindings {
    use Kind::{Read, Uniform, Write};
    let mut bindings = vec![(0, Read), (1, Uniform), (4, Read), (5, Write)];
    bindings.extend(reads_values.then_some((6, Read)));
    bindings
}

pub fn fold_bindings() -> Bindings {
    use Kind::{Read, Uniform, Write};
    vec![(0, Read), (1, Uniform), (4, Read), (5, Read), (6, Write)]
}

fn reads_values(plan: &Plan, by: ByLine) -> bool {
    by == ByLine::Rows || (by == ByLine::Gradients && plan.gradient.clip_adaptive.is_some())
}

/// The kernel of a sum that goes by the spans of a variant.
pub fn span_sum(plan: &Plan, code: &Variant, by: ByLine) -> Wanted<'static> {
    let span = match by {
        ByLine::Units => bindings::unit_bindings(code.kept_count() > 0),
        ByLine::Gradients | ByLine::Rows => bindings::scan_bindings(None, plan.gradient.accumulates()),
    };
    let kernel = shader::sum_lines(code, &plan.gradient, by);
    Wanted { kernel, author: Author::Ours, groups: vec![span, sum_bindings(reads_values(plan, by))] }
}

/// Bytes of what goes by lines.
pub fn bytes(tables: &LineTables) -> u64 {
    let stages = [&tables.units, &tables.gradients, &tables.rows].map(|stage| match stage.jobs.is_empty() {
        true => 0,
        false => size_of_val(stage.jobs.as_slice()) + size_of_val(stage.folds.as_slice()),
    });
    stages.iter().sum::<usize>() as u64 + partial_bytes(tables) + tables.words * 4
}

fn partial_bytes(tables: &LineTables) -> u64 {
    tables.partials.max(1) * 16
}

impl Lines {
    pub fn new(gpu: &Gpu, plan: &Plan, tables: LineTables, [rows, settings]: [&wgpu::Buffer; 2]) -> Result<Self> {
        let usage = BufferUsages::STORAGE;
        let partials = gpu.buffer("parts of lines", partial_bytes(&tables), usage)?;
        let values =
            gpu.buffer("values by line", tables.words * 4, usage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST)?;
        gpu.put(&values, 0, cast_slice(&tables.headers))?;
        let sum = |by: ByLine, stage: &Stage| -> Result<Option<LineSum>> {
            if stage.jobs.is_empty() {
                return Ok(None);
            }
            let reads_values = reads_values(plan, by);
            let jobs = gpu.buffer_of("line jobs", cast_slice(&stage.jobs), usage)?;
            let folds = gpu.buffer_of("line folds", cast_slice(&stage.folds), usage)?;
            Ok(Some(LineSum {
                // The bindings say how many of these there are.
                tables: gpu.bind_all(
                    "lines",
                    &sum_bindings(reads_values),
                    &[rows, settings, &jobs, &partials, &values],
                )?,
                fold: gpu.bind_all("fold lines", &fold_bindings(), &[rows, settings, &folds, &partials, &values])?,
                folds: stage.folds.len() as u32,
                jobs: stage.jobs.len() as u32,
            }))
        };
        let rows = shader::sum_lines(&plan.variants[0], &plan.gradient, ByLine::Rows);
        Ok(Self {
            sum_rows: gpu.pipeline(rows, Author::Ours, &[Vec::new(), sum_bindings(true)])?,
            units: sum(ByLine::Units, &tables.units)?,
            gradients: sum(ByLine::Gradients, &tables.gradients)?,
            rows: sum(ByLine::Rows, &tables.rows)?,
            fold: gpu.pipeline(shader::fold_lines(), Author::Ours, &[fold_bindings()])?,
            nothing: gpu.bind_all("nothing", &Vec::new(), &[])?,
            values,
            tables,
        })
    }
}
