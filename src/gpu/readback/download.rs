//! Buffers read back to the host, awaited or waited for.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::arrival::{Arrival, Shared};
use crate::error::{Error, Result};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::slice::Slice;

/// Longest staging buffer.
const STAGING: u64 = 256 << 20;

/// Between two looks at a mapping that the device's last wait did not bring.
const PAUSE: Duration = Duration::from_millis(1);

/// A stretch of a buffer to read.
#[derive(Debug, Clone)]
pub struct Source {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
    pub size: u64,
}

impl Slice {
    /// Its bytes, up to a whole word: copies take no less.
    pub(in crate::gpu) fn source(&self) -> Source {
        Source { buffer: self.buffer.clone(), offset: self.offset, size: self.size.next_multiple_of(4) }
    }
}

impl Source {
    pub fn whole(buffer: &wgpu::Buffer) -> Self {
        Self { buffer: buffer.clone(), offset: 0, size: buffer.size() }
    }
}

/// Bytes on their way. A future that polls the device when it is polled.
#[derive(Debug)]
pub struct Download {
    gpu: Gpu,
    what: &'static str,
    staging: Vec<Staging>,
    sizes: Vec<u64>,
    /// When someone began to wait for it: its encoder may be submitted much later than recorded.
    waiting_since: Option<Instant>,
}

#[derive(Debug)]
struct Staging {
    /// Before the buffer, and so dropped before it.
    arrival: Shared,
    buffer: wgpu::Buffer,
}

impl Gpu {
    /// Copies the stretches, as they are after all that is submitted so far.
    pub(in crate::gpu) fn download(&self, sources: &[Source]) -> Result<Download> {
        let staging = self.staging(sources)?;
        self.scoped("a readback", |device| {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("readback") };
            let mut encoder = device.create_command_encoder(&descriptor);
            let download = self.record_download(&mut encoder, "a readback", sources, staging);
            self.queue().submit([encoder.finish()]);
            download
        })
    }

    /// The memory that [`Gpu::record_download`] needs.
    pub(in crate::gpu) fn staging(&self, sources: &[Source]) -> Result<Vec<wgpu::Buffer>> {
        let limit = self.limits().buffer.min(STAGING);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let mut left: u64 = sources.iter().map(|s| s.size).sum();
        let mut staging = Vec::new();
        while left > 0 {
            let buffer = self.buffer("staging", left.min(limit), usage)?;
            left -= buffer.size();
            staging.push(buffer);
        }
        Ok(staging)
    }

    /// Records copies of the stretches, as they are when the encoder's commands run.
    pub(in crate::gpu) fn record_download(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        what: &'static str,
        sources: &[Source],
        staging: Vec<wgpu::Buffer>,
    ) -> Download {
        let limit = self.limits().buffer.min(STAGING);
        let mut at = 0;
        for source in sources {
            let mut done = 0;
            while done < source.size {
                let (index, offset) = ((at / limit) as usize, at % limit);
                let size = (source.size - done).min(limit - offset);
                encoder.copy_buffer_to_buffer(&source.buffer, source.offset + done, &staging[index], offset, size);
                done += size;
                at += size;
            }
        }
        let follow = |buffer: wgpu::Buffer| {
            let arrival = Shared::default();
            arrival.ask(encoder, &buffer, self.lost().flag(), "a buffer could not be mapped");
            Staging { arrival, buffer }
        };
        let staging = staging.into_iter().map(follow).collect();
        let sizes = sources.iter().map(|s| s.size).collect();
        Download { gpu: self.clone(), what, staging, sizes, waiting_since: None }
    }
}

impl Download {
    /// Waits, up to [`Gpu::timeout`].
    pub fn wait(mut self) -> Result<Vec<Vec<u8>>> {
        let since = Instant::now();
        self.waiting_since = Some(since);
        loop {
            let waited = self.gpu.wait(self.what, since);
            // First: what has arrived before the device was lost can still be read.
            if let Some(parts) = self.arrived()? {
                return Ok(parts);
            }
            waited?;
            // Another thread may be about to run the callback, or to submit the encoder.
            std::thread::sleep(PAUSE);
        }
    }

    /// The bytes, if they are there.
    pub fn arrived(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        for part in &self.staging {
            match part.arrival.get() {
                Arrival::Mapped if !self.gpu.faults().stalls_readbacks() => {}
                Arrival::Refused => return Err(self.refused(&"the buffer could not be mapped")),
                Arrival::Dropped => return Err(self.refused(&"its encoder was dropped unsubmitted")),
                Arrival::Idle | Arrival::Pending | Arrival::Mapped => {
                    self.gpu.check_alive()?;
                    return self.gpu.check_time(self.what, since).map(|()| None);
                }
            }
        }
        self.take().map(Some)
    }

    fn take(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut bytes = Vec::new();
        for part in &self.staging {
            // A lost device takes what it had mapped with it.
            let view = part.buffer.get_mapped_range(..).map_err(|e| self.refused(&e))?;
            bytes.extend_from_slice(&view);
            drop(view);
            // Scoped: the device may be lost since, and the caller's handler is not to hear of it.
            let _ = self.gpu.scoped(self.what, |_| part.buffer.unmap());
        }
        let mut rest = bytes.as_slice();
        let mut parts = Vec::with_capacity(self.sizes.len());
        for size in &self.sizes {
            let (part, after) = rest.split_at(*size as usize);
            parts.push(part.to_vec());
            rest = after;
        }
        Ok(parts)
    }

    /// It will not come: for that reason, unless the device is lost.
    fn refused(&self, reason: &dyn std::fmt::Display) -> Error {
        self.gpu.why(Error::Device { what: self.what.to_owned(), reason: reason.to_string() })
    }
}

impl Future for Download {
    type Output = Result<Vec<Vec<u8>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Not if the device is lost: what has arrived before can still be read.
        let polled = self.gpu.poll();
        match self.arrived().transpose() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                polled?;
                // Nothing but a poll of the device brings the callback.
                std::thread::yield_now();
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}
