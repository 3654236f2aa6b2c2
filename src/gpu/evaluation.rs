//! Other weights to evaluate with: the moving average, and those of rules that average their iterates.

use wgpu::BufferUsages;

use super::optimizer::Optimizer;
use super::slice::Slice;
use crate::{Error, Result};

/// The parameters to go on training with, while others lie in their place.
#[derive(Debug, Default)]
pub struct Evaluation {
    kept: Vec<(usize, wgpu::Buffer)>,
    active: bool,
}

impl Evaluation {
    /// Where a tensor's parameters to train with lie, while others lie in their place.
    pub fn kept(&self, tensor: usize) -> Option<&wgpu::Buffer> {
        self.kept.iter().filter(|_| self.active).find(|(t, _)| *t == tensor).map(|(_, buffer)| buffer)
    }
}

impl Optimizer {
    /// Records the exchange of all parameters with their moving average: once to evaluate with it, once
    /// more to go on training. Tensors that have no average yet, or no gradient bound, stay as they
    /// are.
    ///
    /// # Errors
    /// No `[ema]` is configured, or the device is lost.
    pub fn swap_ema(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if self.plan.ema.is_none() {
            return Err(Error::Config("no moving average is kept: the configuration has no [ema]".to_owned()));
        }
        let bound = self.bind()?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some("swap weights"), timestamp_writes: None };
        self.recorder(&bound.dispatches, None).swap(&mut encoder.begin_compute_pass(&descriptor));
        Ok(())
    }

    /// Records that the parameters of rules that average their iterates (`schedule_free_adamw`) become
    /// the weights to evaluate with. Those to train with are kept beside, to the bit, in memory that is
    /// allocated the first time, as much as the parameters. Tensors that have taken no step, or have no
    /// gradient bound, stay as they are.
    ///
    /// Until [`Optimizer::end_evaluation`] is recorded, no step can be.
    ///
    /// # Errors
    /// No rule averages its iterates; the last evaluation has not ended; parameters of 16 bits end within
    /// a word that is not padding; the usage of a parameter buffer lacks `COPY_SRC` or `COPY_DST`; the device is lost or out of memory.
    pub fn begin_evaluation(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if !self.plan.averages() {
            let problem = "no rule averages its iterates: its parameters are those to evaluate with";
            return Err(Error::Config(problem.to_owned()));
        }
        self.check_training("begin_evaluation")?;
        if self.evaluation.kept.is_empty() {
            self.evaluation.kept = self.keep()?;
        }
        let bound = self.bind()?;
        for (tensor, kept) in &self.evaluation.kept {
            let Slice { buffer, offset, .. } = &self.tensors[*tensor].params;
            encoder.copy_buffer_to_buffer(buffer, *offset, kept, 0, kept.size());
        }
        let descriptor = wgpu::ComputePassDescriptor { label: Some("evaluation weights"), timestamp_writes: None };
        self.recorder(&bound.dispatches, None).evaluate(&mut encoder.begin_compute_pass(&descriptor));
        self.evaluation.active = true;
        Ok(())
    }

    /// Records that the parameters become again those that [`Optimizer::begin_evaluation`] kept.
    ///
    /// # Errors
    /// No evaluation has begun.
    pub fn end_evaluation(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if !self.evaluation.active {
            return Err(Error::Config("end_evaluation: none has begun".to_owned()));
        }
        for (tensor, kept) in &self.evaluation.kept {
            let Slice { buffer, offset, .. } = &self.tensors[*tensor].params;
            encoder.copy_buffer_to_buffer(kept, 0, buffer, *offset, kept.size());
        }
        self.evaluation.active = false;
        Ok(())
    }

    /// Refuses what must not meet the weights to evaluate with.
    pub(super) fn check_training(&self, call: &str) -> Result<()> {
        if self.evaluation.active {
            return Err(Error::Config(format!("{call}: an evaluation has begun and not ended; end_evaluation first")));
        }
        Ok(())
    }

    /// Room for the parameters of every tensor whose rule averages its iterates.
    fn keep(&self) -> Result<Vec<(usize, wgpu::Buffer)>> {
        let averaged = |t: &usize| self.plan.is_live(*t) && self.plan.variant_of(*t).averages();
        (0..self.tensors.len())
            .filter(averaged)
            .map(|t| {
                let params = &self.tensors[t].params;
                let usage = params.buffer.usage();
                if !usage.contains(BufferUsages::COPY_SRC | BufferUsages::COPY_DST) {
                    let problem = format!("its parameters cannot be kept: usage {usage:?} lacks COPY_SRC or COPY_DST");
                    return Err(Error::tensor(&self.tensors[t].spec.name, problem));
                }
                if !params.size.is_multiple_of(4) && !params.padded {
                    let problem = "its parameters cannot be kept: they end within a word, whose rest is not theirs";
                    return Err(Error::tensor(&self.tensors[t].spec.name, problem));
                }
                let copied = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
                Ok((t, self.gpu.buffer("training weights", params.size.next_multiple_of(4), copied)?))
            })
            .collect()
    }
}
