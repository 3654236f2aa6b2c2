//! Buffers of what goes by lines of tensors.

use bytemuck::cast_slice;
use wgpu::BufferUsages;

use super::lines::{LineTables, Stage};
use crate::error::Result;
use crate::gpu::device::context::Gpu;

/// What goes by lines.
#[derive(Debug)]
pub struct Lines {
    pub tables: LineTables,
    /// Values by line, the headers first.
    pub values: wgpu::Buffer,
    /// Sums of squares by share of a line.
    pub partials: wgpu::Buffer,
    /// What goes by units, by rows and columns, and by the rows' averages.
    pub units: Option<LineSum>,
    pub gradients: Option<LineSum>,
    pub rows: Option<LineSum>,
}

/// One sum along lines, and what is made of it.
#[derive(Debug)]
pub struct LineSum {
    pub jobs_buffer: wgpu::Buffer,
    pub folds_buffer: wgpu::Buffer,
    pub folds: u32,
    /// Of sums that do not go by spans.
    pub jobs: u32,
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
    pub fn new(gpu: &Gpu, tables: LineTables) -> Result<Self> {
        let usage = BufferUsages::STORAGE;
        let partials = gpu.buffer("parts of lines", partial_bytes(&tables), usage)?;
        let values =
            gpu.buffer("values by line", tables.words * 4, usage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST)?;
        gpu.put(&values, 0, cast_slice(&tables.headers))?;
        if let Some(one) = tables.one {
            gpu.put(&values, u64::from(one) * 4, bytemuck::bytes_of(&1.0f32))?;
        }
        let sum = |stage: &Stage| -> Result<Option<LineSum>> {
            if stage.jobs.is_empty() {
                return Ok(None);
            }
            Ok(Some(LineSum {
                jobs_buffer: gpu.buffer_of("line jobs", cast_slice(&stage.jobs), usage)?,
                folds_buffer: gpu.buffer_of("line folds", cast_slice(&stage.folds), usage)?,
                folds: stage.folds.len() as u32,
                jobs: stage.jobs.len() as u32,
            }))
        };
        Ok(Self {
            units: sum(&tables.units)?,
            gradients: sum(&tables.gradients)?,
            rows: sum(&tables.rows)?,
            partials,
            values,
            tables,
        })
    }
}
