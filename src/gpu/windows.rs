//! Placements of tensors in buffers, and the buffers of windows.

use std::collections::HashMap;

use wgpu::BufferUsages;

use super::bindings::WindowBuffers;
use super::context::Gpu;
use super::optimizer::Optimizer;
use super::slice::Tensor;
use crate::Result;
use crate::config::OptimizerConfig;
use crate::layout::{ArenaLayout, DeviceLimits, Layout, Placement};
use crate::step::Plan;
use crate::tensor::TensorSpec;

/// Where the live tensors' parameters lie.
pub fn placements(plan: &Plan, tensors: &[Tensor]) -> Vec<Placement> {
    let mut numbers = HashMap::new();
    let live = tensors.iter().enumerate().filter(|(t, _)| plan.is_live(*t));
    live.map(|(t, tensor)| {
        let next = numbers.len();
        let buffer = *numbers.entry(&tensor.params.buffer).or_insert(next);
        placement(plan, t, buffer, tensor.params.offset, tensor.params.padded)
    })
    .collect()
}

impl Optimizer {
    /// Bytes of state that an optimizer of that configuration will ask a device of those limits for, with tensors
    /// of those names and shapes in an [`Arena`](super::Arena). Needs no device. Tables come on top: 32 bytes for a
    /// block of 4,096 elements and as much for its sums, and about 0.2 MiB for a group.
    ///
    /// # Errors
    /// As [`Plan::new`]; or the tensors do not fit the limits.
    pub fn state_bytes(config: &OptimizerConfig, specs: &[TensorSpec], limits: &DeviceLimits) -> Result<u64> {
        let plan = Plan::new(config, specs)?;
        let formats: Vec<_> = (0..specs.len()).map(|t| plan.formats_of(t)).collect();
        let arena = ArenaLayout::new(specs, &formats, limits)?;
        let place = |t: usize, (segment, first): (usize, u64)| {
            placement(&plan, t, segment, first * formats[t][0].bytes(), true)
        };
        let live = arena.places.into_iter().enumerate().filter(|(t, _)| plan.is_live(*t));
        let placements: Vec<_> = live.map(|(t, at)| place(t, at)).collect();
        Ok(Layout::new(&placements, limits)?.state_bytes())
    }
}

fn placement(plan: &Plan, tensor: usize, buffer: usize, offset: u64, padded: bool) -> Placement {
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
