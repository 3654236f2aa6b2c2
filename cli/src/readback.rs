//! A buffer's contents on their way to the host.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use wgpu_optim::wgpu::{self, Buffer, BufferUsages, Device};

use crate::error::{Error, Result};

/// How long a wait may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Staging memory for one readback at a time.
#[derive(Debug)]
pub struct Readback {
    device: Device,
    staging: Buffer,
    pending: Option<Receiver<Result<(), wgpu::BufferAsyncError>>>,
}

impl Readback {
    pub fn new(device: &Device, bytes: u64) -> Self {
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: bytes,
            usage: BufferUsages::COPY_DST | BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        Self { device: device.clone(), staging, pending: None }
    }

    /// Records the copies, one after another in the staging memory.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, sources: &[wgpu::BufferSlice<'_>]) {
        let mut at = 0;
        for source in sources {
            encoder.copy_buffer_to_buffer(source.buffer(), source.offset(), &self.staging, at, source.size());
            at += source.size();
        }
    }

    /// Asks for the contents, once the encoder is submitted.
    pub fn request(&mut self) {
        let (sender, receiver) = channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
            // Nobody listens any more where the run has ended with an error.
            let _ = sender.send(outcome);
        });
        self.pending = Some(receiver);
    }

    /// The contents if they have arrived, waiting for them where asked; `None` too where nothing is
    /// pending.
    pub fn take(&mut self, wait: bool) -> Result<Option<Vec<f32>>> {
        let Some(pending) = &self.pending else {
            return Ok(None);
        };
        let fail = |e: &dyn std::fmt::Display| Error::failed(format!("reading back from the device: {e}"));
        let poll = if wait {
            wgpu::PollType::Wait { submission_index: None, timeout: Some(PATIENCE) }
        } else {
            wgpu::PollType::Poll
        };
        self.device.poll(poll).map_err(|e| fail(&e))?;
        match pending.try_recv() {
            Ok(outcome) => outcome.map_err(|e| fail(&e))?,
            Err(TryRecvError::Empty) if !wait => return Ok(None),
            Err(e) => return Err(fail(&e)),
        }
        self.pending = None;
        let view = self.staging.get_mapped_range(..).map_err(|e| fail(&e))?;
        let values = view.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        drop(view);
        self.staging.unmap();
        Ok(Some(values))
    }
}
