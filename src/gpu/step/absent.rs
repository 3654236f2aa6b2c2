//! Tensors that have no gradient in a step, and how the device is told.

use std::sync::Arc;

use bytemuck::cast_slice;
use wgpu::BufferUsages;

use crate::error::Result;
use crate::gpu::device::context::Gpu;

/// Stretches of neighbours that are marked by a copy each. More of them come as one copy, from marks that are
/// made when the gradients are bound.
const STRETCHES: usize = 16;

/// The tensors without a gradient, in ascending order.
#[derive(Debug, Clone)]
pub struct Absent {
    tensors: Arc<[usize]>,
    marks: Option<wgpu::Buffer>,
}

impl Absent {
    /// Of so many tensors, those.
    pub fn new(gpu: &Gpu, absent: Vec<usize>, tensors: usize) -> Result<Self> {
        let marks = match stretches(&absent).nth(STRETCHES) {
            Some(_) => {
                let mut marks = vec![0u32; tensors];
                absent.iter().for_each(|tensor| marks[*tensor] = 1);
                Some(gpu.buffer_of("absent tensors", cast_slice(&marks), BufferUsages::COPY_SRC)?)
            }
            None => None,
        };
        Ok(Self { tensors: absent.into(), marks })
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    pub fn has(&self, tensor: usize) -> bool {
        self.tensors.binary_search(&tensor).is_ok()
    }

    /// Records that they are marked there, from that byte on, where all words are 0; `ones` holds as many that are 1.
    pub fn mark(&self, encoder: &mut wgpu::CommandEncoder, ones: &wgpu::Buffer, to: &wgpu::Buffer, at: u64) {
        if let Some(marks) = &self.marks {
            encoder.copy_buffer_to_buffer(marks, 0, to, at, marks.size());
            return;
        }
        for stretch in stretches(&self.tensors) {
            encoder.copy_buffer_to_buffer(ones, 0, to, at + stretch[0] as u64 * 4, stretch.len() as u64 * 4);
        }
    }
}

/// Neighbours together.
fn stretches(tensors: &[usize]) -> impl Iterator<Item = &[usize]> {
    tensors.chunk_by(|a, b| a + 1 == *b)
}
