//! Rows that kernels bind one at a time, as a uniform.

use bytemuck::Pod;
use wgpu::{BindingResource, BufferBinding, BufferSize, BufferUsages};

use super::context::Gpu;
use crate::error::Result;

/// Alignment of uniform offsets on every device.
const STRIDE: u64 = 256;

/// Bytes of so many rows.
pub const fn bytes(rows: usize) -> u64 {
    rows as u64 * STRIDE
}

/// Rows in one buffer, never written again: encoders recorded earlier may still read them.
#[derive(Debug)]
pub struct Uniforms {
    buffer: wgpu::Buffer,
    size: u64,
}

impl Uniforms {
    pub fn new<T: Pod>(gpu: &Gpu, label: &str, rows: &[T]) -> Result<Self> {
        let mut padded = vec![0u8; bytes(rows.len()) as usize];
        for (row, place) in rows.iter().zip(padded.chunks_exact_mut(STRIDE as usize)) {
            place[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(row));
        }
        let buffer = gpu.buffer_of(label, &padded, BufferUsages::UNIFORM)?;
        Ok(Self { buffer, size: size_of::<T>() as u64 })
    }

    /// The row of that number.
    pub fn row(&self, index: usize) -> BindingResource<'_> {
        let size = BufferSize::new(self.size);
        BindingResource::Buffer(BufferBinding { buffer: &self.buffer, offset: bytes(index), size })
    }
}
