//! Other weights to evaluate with: the moving average, and those of rules that average their iterates.

use super::bindings::BoundDispatch;
use super::keep::Kept;
use super::optimizer::Optimizer;
use super::phases::Phase;
use super::{keep, over_all};
use crate::error::{Error, Result};
use crate::plan::Pass;

impl Optimizer {
    /// Records the exchange of all parameters with their moving average: once to evaluate with it, once
    /// more to go on training. Tensors that have no average yet stay as they are.
    ///
    /// Between the two no step can be recorded, and no checkpoint. A step that was recorded before and runs
    /// between them is skipped. If the encoder is dropped, nothing is exchanged, here and on the device.
    ///
    /// # Errors
    /// No `[ema]` is configured; an evaluation has begun and not ended; the device is lost or refuses what this needs.
    /// Nothing is recorded then.
    pub fn swap_ema(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if self.plan.ema.is_none() {
            return Err(Error::call("swap_ema", "no moving average is kept: the configuration has no [ema]"));
        }
        let from = self.phases.current();
        let to = match from {
            Phase::Averaged => Phase::Training,
            _ => Phase::Averaged,
        };
        if from != Phase::Averaged {
            self.check_training("swap_ema")?;
        }
        let dispatches = self.whole(|_| true)?;
        let swap = self.recorder(&dispatches);
        self.change(encoder, "swap weights", [from, to], |pass| {
            swap.pass(pass, Pass::Swap { back: to == Phase::Training })
        })
    }

    /// Records that the parameters of rules that average their iterates (`schedule_free_adamw`) become
    /// the weights to evaluate with. Those to train with are kept beside, to the bit, in memory that is
    /// allocated the first time, as much as the parameters. Tensors that have taken no step stay as they are.
    ///
    /// Until [`Optimizer::end_evaluation`] is recorded, no step can be. A step that was recorded before and runs
    /// during the evaluation is skipped. If the encoder is dropped, no evaluation has begun.
    ///
    /// # Errors
    /// No rule averages its iterates; the last evaluation has not ended, or the moving average is swapped in;
    /// parameters of 16 bits end within a word that is not padding; the device is lost, out of memory or refuses what
    /// this needs. Nothing is recorded then.
    pub fn begin_evaluation(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if !self.plan.averages() {
            let problem = "no rule averages its iterates: its parameters are those to evaluate with";
            return Err(Error::call("begin_evaluation", problem));
        }
        self.check_training("begin_evaluation")?;
        if self.evaluation.kept.is_empty() {
            self.evaluation.kept = self.keep()?;
        }
        let plan = self.plan.clone();
        let dispatches = self.whole(|variant| plan.variants[variant].averages())?;
        let keep = keep::pipeline(&self.gpu)?;
        self.change(encoder, "evaluation weights", [Phase::Training, Phase::Evaluating], |pass| {
            pass.set_pipeline(&keep);
            self.evaluation.kept.iter().for_each(|kept| kept.keep(pass));
            self.recorder(&dispatches).pass(pass, Pass::Evaluate);
        })
    }

    /// Records that the parameters become again those that [`Optimizer::begin_evaluation`] kept. On a device
    /// where none has begun, because its encoder was dropped, the commands do nothing.
    ///
    /// # Errors
    /// No evaluation has begun; the device is lost. Nothing is recorded then.
    pub fn end_evaluation(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if self.phases.current() != Phase::Evaluating {
            return Err(Error::call("end_evaluation", "none has begun"));
        }
        let keep = keep::pipeline(&self.gpu)?;
        self.change(encoder, "training weights", [Phase::Evaluating, Phase::Training], |pass| {
            pass.set_pipeline(&keep);
            self.evaluation.kept.iter().for_each(|kept| kept.restore(pass));
        })
    }

    /// Refuses what must not meet other weights than those to train with.
    pub(in crate::gpu) fn check_training(&self, call: &str) -> Result<()> {
        self.phases.current().check_training(call)
    }

    /// Dispatches over all tensors of those variants, with all pipelines built.
    fn whole(&mut self, of: impl Fn(usize) -> bool) -> Result<Vec<BoundDispatch>> {
        let all = match &self.evaluation.whole {
            Some(all) => all.clone(),
            None => {
                let codes = self.cache.codes.as_ref();
                over_all::dispatches(&self.gpu, &self.layout, &self.windows, codes, self.zero_gradients)?
            }
        };
        self.evaluation.whole = Some(all.clone());
        let dispatches: Vec<_> = all.iter().filter(|dispatch| of(dispatch.variant)).cloned().collect();
        self.build_for(&dispatches)?;
        Ok(dispatches)
    }

    /// Records commands, and that the device goes on from one phase to another after them.
    fn change(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        label: &str,
        [before, after]: [Phase; 2],
        commands: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<()> {
        self.gpu.check_alive()?;
        let turn = keep::PhaseChanging::new(&self.gpu, &self.tables.control, self.tables.turn(before, after))?;
        {
            let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            commands(&mut pass);
            turn.record(&mut pass);
        }
        self.phases.follow(encoder, Some(after));
        Ok(())
    }

    /// Room for the parameters of every tensor whose rule averages its iterates.
    fn keep(&self) -> Result<Vec<Kept>> {
        let averaged = |t: &usize| self.plan.is_live(*t) && self.plan.variant_of(*t).averages();
        let turns = || {
            [(Phase::Training, Phase::Evaluating), (Phase::Evaluating, Phase::Training)]
                .map(|(before, after)| self.tables.turn(before, after))
        };
        (0..self.tensors.len())
            .filter(averaged)
            .map(|t| {
                let params = &self.tensors[t].params;
                if !params.size.is_multiple_of(4) && !params.is_padded() {
                    let problem = "its parameters cannot be kept: they end within a word, whose rest is not theirs";
                    return Err(Error::tensor(&self.tensors[t].spec.name, problem));
                }
                Kept::new(&self.gpu, t, params, &self.tables.control, turns())
            })
            .collect()
    }
}
