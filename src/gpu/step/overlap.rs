//! Slices that must not share memory: with all that kernels reach of them, padding included.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::gpu::device::slice::{Slice, Tensor};
use crate::plan::Plan;

/// Where all parameters lie: by buffer, sorted by their start, none within another.
#[derive(Debug)]
pub struct ParamMap {
    buffers: HashMap<wgpu::Buffer, Vec<Stretch>>,
}

#[derive(Debug)]
struct Stretch {
    start: u64,
    end: u64,
    tensor: usize,
}

impl ParamMap {
    /// Checks every slice by itself and against the others.
    pub fn new(plan: &Plan, tensors: &[Tensor]) -> Result<Self> {
        let mut buffers: HashMap<wgpu::Buffer, Vec<Stretch>> = HashMap::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let slice = &tensor.params;
            slice.check(&tensor.spec, plan.tensors[index].elements, plan.formats_of(index)[0], "parameters")?;
            if slice.size > 0 {
                let stretch = Stretch { start: slice.offset, end: slice.reach(), tensor: index };
                buffers.entry(slice.buffer.clone()).or_default().push(stretch);
            }
        }
        for stretches in buffers.values_mut() {
            *stretches = check_apart(tensors, std::mem::take(stretches), "parameters")?;
        }
        let map = Self { buffers };
        for (index, tensor) in tensors.iter().enumerate() {
            if let Some(gradient) = &tensor.gradient {
                map.check_gradient(plan, tensors, index, gradient)?;
            }
        }
        Ok(map)
    }

    /// Checks a gradient by itself, and that it lies in nobody's parameters.
    pub fn check_gradient(&self, plan: &Plan, tensors: &[Tensor], tensor: usize, gradient: &Slice) -> Result<()> {
        let format = plan.formats_of(tensor)[1];
        gradient.check(&tensors[tensor].spec, plan.tensors[tensor].elements, format, "gradient")?;
        let Some(stretches) = self.buffers.get(&gradient.buffer).filter(|_| gradient.size > 0) else {
            return Ok(());
        };
        // Disjoint stretches that are sorted by their start are sorted by their end.
        let first = stretches.partition_point(|s| s.end <= gradient.offset);
        match stretches.get(first) {
            Some(s) if s.start < gradient.reach() => {
                Err(overlap(&tensors[s.tensor], &tensors[tensor], "parameters and gradient"))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that no two of the tensors' gradients share memory: what zeroes one while another is read would race.
pub fn check_gradients(tensors: &[Tensor], gradients: &[Option<Slice>]) -> Result<()> {
    let bound = gradients.iter().enumerate().filter_map(|(t, slice)| Some((slice.as_ref().filter(|s| s.size > 0)?, t)));
    let mut buffers: HashMap<&wgpu::Buffer, Vec<Stretch>> = HashMap::new();
    for (slice, tensor) in bound {
        let stretch = Stretch { start: slice.offset, end: slice.reach(), tensor };
        buffers.entry(&slice.buffer).or_default().push(stretch);
    }
    buffers
        .into_values()
        .try_for_each(|stretches| check_apart(tensors, stretches, "gradients, which are zeroed").map(drop))
}

/// Sorts the stretches by their start, and checks that none reaches into the next.
fn check_apart(tensors: &[Tensor], mut stretches: Vec<Stretch>, what: &'static str) -> Result<Vec<Stretch>> {
    stretches.sort_by_key(|s| s.start);
    // Sorted by their start, some neighbours overlap if any two do.
    for (first, second) in stretches.iter().zip(stretches.iter().skip(1)) {
        if second.start < first.end {
            return Err(overlap(&tensors[first.tensor], &tensors[second.tensor], what));
        }
    }
    Ok(stretches)
}

fn overlap(first: &Tensor, second: &Tensor, what: &'static str) -> Error {
    Error::Overlap { first: first.spec.name.clone(), second: second.spec.name.clone(), what }
}
