//! Writes that all happen or none does.

use wgpu::BufferUsages;

use super::context::Gpu;
use crate::Result;

/// Where bytes for a buffer go: to the queue at once, or into an [`Upload`].
pub trait Writes {
    /// Writes whole words, ordered with the queue's submissions.
    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()>;
}

impl Writes for &Gpu {
    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        Gpu::put(self, to, offset, bytes)
    }
}

impl Writes for Upload<'_> {
    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.add(to, offset, bytes)
    }
}

/// Bytes for buffers. All memory is there before anything is written.
#[derive(Debug)]
pub struct Upload<'a> {
    gpu: &'a Gpu,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    from: wgpu::Buffer,
    to: wgpu::Buffer,
    offset: u64,
    size: u64,
}

impl<'a> Upload<'a> {
    pub fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, parts: Vec::new() }
    }

    /// Plans to write whole words.
    pub fn add(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let from = self.gpu.buffer_of("upload", bytes, BufferUsages::COPY_SRC)?;
        self.parts.push(Part { from, to: to.clone(), offset, size: bytes.len() as u64 });
        Ok(())
    }

    /// Writes it all, after all that is submitted so far.
    pub fn submit(self) -> Result<()> {
        self.gpu.scoped("an upload", |device| {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("upload") };
            let mut encoder = device.create_command_encoder(&descriptor);
            for part in &self.parts {
                encoder.copy_buffer_to_buffer(&part.from, 0, &part.to, part.offset, part.size);
            }
            self.gpu.queue().submit([encoder.finish()]);
        })
    }
}
