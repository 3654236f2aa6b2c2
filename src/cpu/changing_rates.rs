//! Rates and other numbers that change while a run goes on.

use super::CpuOptimizer;
use crate::error::Result;
use crate::options::OptionValue;
use crate::plan::rates::Rates;
use crate::rule::kernel::CpuFloat;

impl<F: CpuFloat> CpuOptimizer<F> {
    /// Learning rates, weight decays and other numbers.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The rate of `[optimizer]` in the next step.
    pub fn lr(&self) -> f64 {
        self.rates.lr(self.steps_taken)
    }

    /// The rate of the group with that name or glob in the next step, schedule and `lr_scale` in it.
    ///
    /// # Errors
    /// There is no such group.
    pub fn group_lr(&self, label: &str) -> Result<f64> {
        Ok(self.rates.group_lr(self.plan.group_named(label)?, self.steps_taken))
    }

    /// Sets `[optimizer].lr`; groups keep their ratio to it.
    ///
    /// # Errors
    /// What [`Rates::set_lr`] refuses.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.rates.set_lr(lr)
    }

    /// Tells `plateau` schedules the loss; they act on the next step.
    ///
    /// # Errors
    /// No schedule is of that kind.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        self.rates.report_loss(loss)
    }

    /// Sets the learning rate of the group with that name or glob, before its schedule.
    ///
    /// # Errors
    /// There is no such group, or what [`Rates::set_group_lr`] refuses.
    pub fn set_group_lr(&mut self, label: &str, lr: f64) -> Result<()> {
        let group = self.plan.group_named(label)?;
        self.rates.set_group_lr(group, &format!("groups.{label:?}"), lr)
    }

    /// Sets the weight decay of the group with that name or glob, before a schedule of its own.
    ///
    /// # Errors
    /// There is no such group, or what [`Rates::set_group_weight_decay`] refuses.
    pub fn set_group_weight_decay(&mut self, label: &str, lambda: f64) -> Result<()> {
        let group = self.plan.group_named(label)?;
        self.rates.set_group_weight_decay(group, &format!("groups.{label:?}"), lambda)
    }

    /// Sets a numeric option of the group with that name or glob; `"optimizer"` is the group of all tensors that no other
    /// claims. Tensors of other groups keep theirs.
    ///
    /// # Errors
    /// There is no such group, or what [`Rates::set_option`] refuses.
    pub fn set_option(&mut self, label: &str, key: &str, value: impl Into<OptionValue>) -> Result<()> {
        let group = self.plan.group_named(label)?;
        self.rates.set_option(group, &self.plan.table_of(group), key, &value.into())
    }
}
