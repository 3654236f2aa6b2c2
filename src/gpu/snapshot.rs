//! Checkpoints of an optimizer: copied on the GPU while training goes on, read when they have arrived.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use wgpu::BufferUsages;

use super::optimizer::Optimizer;
use super::readback::{Download, Source};
use super::transfer::{self, SavedRates};
use crate::checkpoint::Checkpoint;
use crate::layout::Layout;
use crate::step::Plan;
use crate::{Error, Result};

/// A checkpoint on its way to the host. Hand it to another thread, await it, wait for it, or look from time to
/// time whether it has arrived.
#[derive(Debug)]
pub struct PendingCheckpoint {
    download: Download,
    plan: Arc<Plan>,
    layout: Arc<Layout>,
    rates: SavedRates,
    params: bool,
}

impl Optimizer {
    /// Records copies of all parameters and state, as they are when the encoder's commands run, into staging
    /// memory of [`Optimizer::checkpoint_bytes`]. Training goes on; nothing waits.
    ///
    /// ```no_run
    /// # fn save(gpu: &wgpu_optim::Gpu, optimizer: &mut wgpu_optim::Optimizer) -> wgpu_optim::Result<()> {
    /// let mut encoder = gpu.device().create_command_encoder(&Default::default());
    /// optimizer.step(&mut encoder)?;
    /// let checkpoint = optimizer.record_checkpoint(&mut encoder)?;
    /// gpu.queue().submit([encoder.finish()]);
    /// // More steps are recorded and submitted here. Meanwhile, on this thread or another:
    /// checkpoint.wait()?.save("run.safetensors")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A parameter buffer's usage lacks `COPY_SRC`, or the device has no memory for the copies. Nothing is
    /// recorded then.
    pub fn record_checkpoint(&self, encoder: &mut wgpu::CommandEncoder) -> Result<PendingCheckpoint> {
        self.check_readable()?;
        self.record_copies(encoder, true)
    }

    /// [`Optimizer::record_checkpoint`] of the state alone, where parameters are kept elsewhere.
    ///
    /// # Errors
    /// The device has no memory for the copies. Nothing is recorded then.
    pub fn record_state(&self, encoder: &mut wgpu::CommandEncoder) -> Result<PendingCheckpoint> {
        self.record_copies(encoder, false)
    }

    /// A checkpoint of the parameters and the state as they are after all that is submitted so far.
    ///
    /// # Errors
    /// As [`Optimizer::record_checkpoint`]; or the device fails.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.submit_copies()?.await
    }

    /// [`Optimizer::checkpoint`], waited for.
    ///
    /// # Errors
    /// As [`Optimizer::record_checkpoint`]; or the device fails.
    pub fn checkpoint_blocking(&self) -> Result<Checkpoint> {
        self.submit_copies()?.wait()
    }

    /// Bytes of staging memory that a checkpoint takes on the device while it is under way: all parameters and
    /// all state.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.copied(true).iter().map(|source| source.size).sum()
    }

    fn submit_copies(&self) -> Result<PendingCheckpoint> {
        self.check_readable()?;
        self.gpu.scoped("a checkpoint", |device| {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("checkpoint") };
            let mut encoder = device.create_command_encoder(&descriptor);
            let pending = self.record_copies(&mut encoder, true)?;
            self.gpu.queue().submit([encoder.finish()]);
            Ok(pending)
        })?
    }

    fn record_copies(&self, encoder: &mut wgpu::CommandEncoder, params: bool) -> Result<PendingCheckpoint> {
        let sources = self.copied(params);
        let staging = self.gpu.staging(&sources)?;
        Ok(PendingCheckpoint {
            download: self.gpu.record_download(encoder, "a checkpoint", &sources, staging),
            plan: self.plan.clone(),
            layout: self.layout.clone(),
            rates: SavedRates::of(&self.rates),
            params,
        })
    }

    /// What a checkpoint copies: a word that tells whether the copies ran, the state, the parameters.
    fn copied(&self, params: bool) -> Vec<Source> {
        let mark = Source { size: 4, ..Source::whole(&self.tables.ones) };
        // Those to train with, also during an evaluation.
        let params = (0..self.tensors.len()).filter(|_| params).map(|t| {
            let slice = &self.tensors[t].params;
            let kept = |buffer: &wgpu::Buffer| Source { buffer: buffer.clone(), offset: 0, size: buffer.size() };
            self.evaluation.kept(t).map_or_else(|| slice.source(), kept)
        });
        std::iter::once(mark).chain(self.state_sources()).chain(params).collect()
    }

    pub(super) fn check_readable(&self) -> Result<()> {
        self.check_usage(BufferUsages::COPY_SRC, "cannot be read: usage", "lacks COPY_SRC")
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_usage(BufferUsages::COPY_DST, "cannot be written to: usage", "lacks COPY_DST")
    }

    fn check_usage(&self, needed: BufferUsages, before: &str, after: &str) -> Result<()> {
        for tensor in &self.tensors {
            let usage = tensor.params.buffer.usage();
            if !usage.contains(needed) && tensor.params.size > 0 {
                let problem = format!("its parameters {before} {usage:?} {after}");
                return Err(Error::tensor(&tensor.spec.name, problem));
            }
        }
        Ok(())
    }
}

impl PendingCheckpoint {
    /// The checkpoint if it has arrived. Never waits, and does not poll the device: the optimizer's steps and
    /// reports do. Looked at for longer than [`crate::Gpu::timeout`], it is an error.
    ///
    /// # Errors
    /// The encoder was dropped unsubmitted or refused by the device, or the device is lost.
    pub fn try_take(&mut self) -> Result<Option<Checkpoint>> {
        self.download
            .arrived()?
            .map(|parts| decode(&self.plan, &self.layout, &self.rates, self.params, &parts))
            .transpose()
    }

    /// Waits for it, up to [`crate::Gpu::timeout`].
    ///
    /// # Errors
    /// As [`PendingCheckpoint::try_take`]; or it did not arrive in time.
    pub fn wait(self) -> Result<Checkpoint> {
        let Self { download, plan, layout, rates, params } = self;
        decode(&plan, &layout, &rates, params, &download.wait()?)
    }
}

impl Future for PendingCheckpoint {
    type Output = Result<Checkpoint>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let parts = std::task::ready!(Pin::new(&mut self.download).poll(context));
        Poll::Ready(parts.and_then(|parts| decode(&self.plan, &self.layout, &self.rates, self.params, &parts)))
    }
}

fn decode(plan: &Plan, layout: &Layout, rates: &SavedRates, params: bool, parts: &[Vec<u8>]) -> Result<Checkpoint> {
    // The mapping succeeds also where the device refused the commands that should have filled the memory.
    if parts[0] != 1u32.to_ne_bytes() {
        let reason = "the commands that should have copied it did not run".to_owned();
        return Err(Error::Device { what: "a checkpoint".to_owned(), reason });
    }
    let (state, values) = parts[1..].split_at(parts.len() - 1 - if params { plan.tensors.len() } else { 0 });
    let checkpoint = Checkpoint::new(transfer::decode_state(plan, layout, rates, state));
    Ok(if params { checkpoint.with_params(plan, transfer::values(plan, values)) } else { checkpoint })
}
