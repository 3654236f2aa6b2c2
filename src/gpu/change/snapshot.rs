//! Checkpoints of an optimizer: copied on the GPU while training goes on, read when they have arrived.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use wgpu::BufferUsages;

use super::transfer;
use crate::error::{Error, Result};
use crate::gpu::readback::download::{Download, Source};
use crate::gpu::readback::reports::Snapshot;
use crate::gpu::step::optimizer::Optimizer;
use crate::gpu::step::phases::Phase;
use crate::plan::Plan;
use crate::plan::layout::Layout;
use crate::plan::rates::Saved;
use crate::state::checkpoint::Checkpoint;

/// A checkpoint on its way to the host. Hand it to another thread, await it, wait for it, or look from time to
/// time whether it has arrived.
#[derive(Debug)]
pub struct PendingCheckpoint {
    download: Download,
    copied: Copied,
}

/// What the copies mean.
#[derive(Debug)]
struct Copied {
    plan: Arc<Plan>,
    layout: Arc<Layout>,
    rates: Saved,
    params: bool,
    /// Tensors whose weights to train with were copied too, from where an evaluation keeps them.
    kept: Vec<usize>,
}

impl Optimizer {
    /// Records copies of all parameters and state, as they are when the encoder's commands run, into staging
    /// memory of [`Optimizer::checkpoint_bytes`]. Training goes on; nothing waits. Tensors and configuration cannot be
    /// changed before it is submitted.
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
    /// The moving average is swapped in; a parameter buffer's usage lacks `COPY_SRC`, or the device has no memory for
    /// the copies. Nothing is recorded then.
    pub fn record_checkpoint(&self, encoder: &mut wgpu::CommandEncoder) -> Result<PendingCheckpoint> {
        self.check_readable()?;
        self.record_copies(encoder, true)
    }

    /// [`Optimizer::record_checkpoint`] of the state alone, where parameters are kept elsewhere.
    ///
    /// # Errors
    /// The moving average is swapped in, or the device has no memory for the copies. Nothing is recorded then.
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
        self.check_readable()?;
        self.gpu.wait_for_queue("a checkpoint")?;
        self.submit_copies()?.wait()
    }

    /// Bytes of staging memory that a checkpoint takes on the device while it is under way: all parameters and
    /// all state, and once there was an evaluation of averaged iterates the weights that it keeps.
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
        self.check_unswapped()?;
        let sources = self.copied(params);
        let staging = self.gpu.staging(&sources)?;
        let download = self.gpu.record_download(encoder, "a checkpoint", &sources, staging);
        // The parameters that it copies must not be another optimizer's by then.
        self.phases.follow(encoder, None);
        Ok(PendingCheckpoint {
            download,
            copied: Copied {
                plan: self.plan.clone(),
                layout: self.layout.clone(),
                rates: self.rates.saved(),
                params,
                kept: self.evaluation.kept().map(|(tensor, _)| tensor).filter(|_| params).collect(),
            },
        })
    }

    /// A state whose average is that of the weights, since these are not kept beside.
    fn check_unswapped(&self) -> Result<()> {
        match self.phases.current() {
            Phase::Evaluating => Ok(()),
            phase => phase.check_training("a checkpoint"),
        }
    }

    /// What a checkpoint copies: a word that tells whether the copies ran, the state, the parameters, and what an
    /// evaluation keeps: only the control block, which is in the state, tells whose weights lie where.
    fn copied(&self, params: bool) -> Vec<Source> {
        let mark = Source { size: 4, ..Source::whole(&self.tables.ones) };
        let kept = self.evaluation.kept().filter(|_| params).map(|(_, buffer)| Source::whole(buffer));
        let params = self.tensors.iter().filter(|_| params).map(|tensor| tensor.params.source());
        std::iter::once(mark).chain(self.state_sources()).chain(params).chain(kept).collect()
    }

    pub(in crate::gpu) fn check_readable(&self) -> Result<()> {
        self.check_usage(BufferUsages::COPY_SRC, "cannot be read: usage", "lacks COPY_SRC")
    }

    pub(in crate::gpu) fn check_writable(&self) -> Result<()> {
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
    /// reports do. Looked at for longer than [`crate::gpu::Gpu::timeout`], it is an error.
    ///
    /// # Errors
    /// The encoder was dropped unsubmitted or refused by the device, or the device is lost.
    pub fn try_take(&mut self) -> Result<Option<Checkpoint>> {
        self.download.arrived()?.map(|parts| self.copied.decode(parts)).transpose()
    }

    /// Waits for it, up to [`crate::gpu::Gpu::timeout`].
    ///
    /// # Errors
    /// As [`PendingCheckpoint::try_take`]; or it did not arrive in time.
    pub fn wait(self) -> Result<Checkpoint> {
        self.copied.decode(self.download.wait()?)
    }
}

impl Future for PendingCheckpoint {
    type Output = Result<Checkpoint>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let parts = std::task::ready!(Pin::new(&mut self.download).poll(context));
        Poll::Ready(parts.and_then(|parts| self.copied.decode(parts)))
    }
}

impl Copied {
    fn decode(&self, mut parts: Vec<Vec<u8>>) -> Result<Checkpoint> {
        // The mapping succeeds also where the device refused the commands that should have filled the memory.
        if parts[0] != 1u32.to_ne_bytes() {
            let reason = "the commands that should have copied it did not run".to_owned();
            return Err(Error::Device { what: "a checkpoint".to_owned(), reason });
        }
        let phase = Phase::of(Snapshot::of(&parts[1], false).control.phase);
        if phase != Phase::Evaluating {
            phase.check_training("a checkpoint")?;
        }
        let kept = parts.split_off(parts.len() - self.kept.len());
        let mut params = parts.split_off(parts.len() - if self.params { self.plan.tensors.len() } else { 0 });
        // Those to train with, also during an evaluation.
        for (tensor, kept) in self.kept.iter().zip(kept).filter(|_| phase == Phase::Evaluating) {
            params[*tensor] = kept;
        }
        let state = transfer::decode_state(&self.plan, &self.layout, &self.rates, &parts[1..]);
        let checkpoint = Checkpoint::new(state);
        Ok(if self.params {
            checkpoint.with_params(&self.plan, transfer::values(&self.plan, &params))?
        } else {
            checkpoint
        })
    }
}
