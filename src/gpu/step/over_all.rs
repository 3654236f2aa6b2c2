//! Dispatches over all parameters and their state, wherever gradients are bound: for kernels that read none.

use std::sync::Arc;

use wgpu::{BufferBinding, BufferUsages};

use super::bindings::{BoundDispatch, WindowBuffers, update_bindings};
use crate::error::Result;
use crate::gpu::abi::SpanRow;
use crate::gpu::device::context::Gpu;
use crate::plan::layout::{Layout, Run};
use crate::shader::Access;
use crate::storage::StateFormat;

/// One dispatch a run, or more where its blocks are not neighbours.
pub fn dispatches(
    gpu: &Gpu,
    layout: &Layout,
    windows: &[WindowBuffers],
    codes: Option<&wgpu::Buffer>,
    clear: bool,
) -> Result<Arc<[BoundDispatch]>> {
    // In the place of gradients, which the pipelines' layouts have.
    let nothing = gpu.buffer("no gradients", 16, BufferUsages::STORAGE)?;
    let mut bound = Vec::new();
    for (window, buffers) in layout.windows.iter().zip(windows) {
        let codes = codes.filter(|_| window.slots.contains(&StateFormat::Q8));
        let size = std::num::NonZeroU64::new(window.bytes.end - window.bytes.start);
        let params = BufferBinding { buffer: &buffers.params, offset: window.bytes.start, size };
        for run in &window.runs {
            let access = Access { vector: run.vector, clear, ..Access::default() };
            let bindings = gpu.layout(&update_bindings(access, buffers.state.is_some(), codes.is_some()))?;
            for blocks in neighbours(run) {
                let row = SpanRow { first_block: blocks.start, blocks: blocks.len() as u32, ..SpanRow::default() };
                let row = gpu.buffer_of("whole span", bytemuck::bytes_of(&row), BufferUsages::UNIFORM)?;
                let mut entries = vec![(0, wgpu::BindingResource::Buffer(params.clone()))];
                entries.push((1, nothing.as_entire_binding()));
                entries.extend(buffers.state.as_ref().map(|state| (2, state.as_entire_binding())));
                entries.push((3, row.as_entire_binding()));
                entries.extend(codes.map(|codes| (4, codes.as_entire_binding())));
                let update = gpu.bind_group("whole span", &bindings, &entries)?;
                bound.push(BoundDispatch {
                    variant: window.variant,
                    access,
                    // Nothing is scanned through it.
                    scan: update.clone(),
                    update,
                    workgroups: gpu.limits().dispatch(blocks.len() as u32),
                    lines: None,
                });
            }
        }
    }
    Ok(bound.into())
}

/// The stretches of the block table that a run's pieces make up.
fn neighbours(run: &Run) -> Vec<std::ops::Range<u32>> {
    let mut stretches: Vec<std::ops::Range<u32>> = Vec::new();
    for piece in run.pieces.iter().filter(|piece| !piece.blocks.is_empty()) {
        match stretches.last_mut() {
            Some(last) if last.end == piece.blocks.start => last.end = piece.blocks.end,
            _ => stretches.push(piece.blocks.clone()),
        }
    }
    stretches
}
