//! Placements of tensors in buffers, and the buffers of windows.

use std::collections::HashMap;

use wgpu::BufferUsages;

use super::bindings::WindowBuffers;
use super::context::Gpu;
use super::slice::Tensor;
use crate::Result;
use crate::layout::{Layout, Placement};
use crate::step::Plan;

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

/// Allocates each window's state, with what slots start from.
pub fn windows(gpu: &Gpu, plan: &Plan, layout: &Layout, tensors: &[Tensor]) -> Result<Vec<WindowBuffers>> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    (0..layout.windows.len())
        .map(|index| {
            let window = &layout.windows[index];
            let first = window.runs[0].pieces[0].tensor;
            let params = tensors[first].params.buffer.clone();
            if window.state == 0 {
                return Ok(WindowBuffers { params, state: None });
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
            let state = if words.is_empty() {
                gpu.buffer("state", window.state * 4, usage)?
            } else {
                gpu.buffer_of("state", bytemuck::cast_slice(&words), usage)?
            };
            Ok(WindowBuffers { params, state: Some(state) })
        })
        .collect()
}
