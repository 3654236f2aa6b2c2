//! Placements of tensors in buffers, and the buffers of windows.

use std::collections::HashMap;

use wgpu::BufferUsages;

use super::bindings::WindowBuffers;
use crate::error::Result;
use crate::gpu::device::context::Gpu;
use crate::gpu::device::slice::Tensor;
use crate::plan::Plan;
use crate::plan::layout::{Layout, Placement, Window};

/// Where the live tensors' parameters lie.
pub fn placements(plan: &Plan, tensors: &[Tensor]) -> Vec<Placement> {
    let mut numbers = HashMap::new();
    let live = tensors.iter().enumerate().filter(|(t, _)| plan.is_live(*t));
    live.map(|(t, tensor)| {
        let next = numbers.len();
        let buffer = *numbers.entry(&tensor.params.buffer).or_insert(next);
        placement(plan, t, buffer, tensor.params.offset, tensor.params.is_padded())
    })
    .collect()
}

/// Where a tensor's parameters lie, in buffers by any numbering.
pub fn placement(plan: &Plan, tensor: usize, buffer: usize, offset: u64, padded: bool) -> Placement {
    Placement {
        tensor,
        elements: plan.tensors[tensor].elements,
        variant: plan.tensors[tensor].variant,
        params: plan.variant_of(tensor).storage.params,
        gradients: plan.variant_of(tensor).storage.gradients,
        slots: plan.variant_of(tensor).formats().collect(),
        buffer,
        offset,
        padded,
    }
}

/// The windows' parameters, and their state as `state` has it.
pub fn windows(
    layout: &Layout,
    tensors: &[Tensor],
    mut state: impl FnMut(usize) -> Result<Option<wgpu::Buffer>>,
) -> Result<Vec<WindowBuffers>> {
    let window = |(index, window): (usize, &Window)| {
        let first = window.runs[0].pieces[0].tensor;
        Ok(WindowBuffers { params: tensors[first].params.buffer.clone(), state: state(index)? })
    };
    layout.windows.iter().enumerate().map(window).collect()
}

/// Allocates a window's state, with what slots start from; nothing where there is none.
pub fn state(gpu: &Gpu, plan: &Plan, layout: &Layout, index: usize) -> Result<Option<wgpu::Buffer>> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let window = &layout.windows[index];
    if window.state == 0 {
        return Ok(None);
    }
    let mut words = Vec::new();
    layout.for_each_state(index, |part| {
        let initial = plan.initial_of(part.tensor)[part.slot] as f32;
        if initial != 0.0 {
            words.resize(window.state as usize, 0u32);
            let values = vec![initial; part.elements.len()];
            let signed = plan.is_signed(part.tensor, part.slot);
            part.format.encode(&values, signed, None, &mut words[part.words]);
        }
    });
    let buffer = if words.is_empty() {
        gpu.buffer("state", window.state * 4, usage)?
    } else {
        gpu.buffer_of("state", bytemuck::cast_slice(&words), usage)?
    };
    Ok(Some(buffer))
}
