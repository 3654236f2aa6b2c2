//! Rates and other numbers that change while a run goes on.

use super::optimizer::Optimizer;
use crate::error::Result;
use crate::options::OptionValue;
use crate::plan::rates::Rates;

impl Optimizer {
    /// Sets `[optimizer].lr` for steps submitted from now on; groups keep their ratio to it.
    ///
    /// # Errors
    /// What [`Rates::set_lr`] refuses.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.change_rates(|rates| rates.set_lr(lr))
    }

    /// Tells `plateau` schedules the loss; they act on steps submitted from now on.
    ///
    /// # Errors
    /// No schedule is of that kind.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        self.change_rates(|rates| rates.report_loss(loss))
    }

    /// Sets the learning rate of the group with that name or glob, before its schedule, for steps submitted from now on.
    ///
    /// # Errors
    /// There is no such group, or what [`Rates::set_group_lr`] refuses.
    pub fn set_group_lr(&mut self, label: &str, lr: f64) -> Result<()> {
        let group = self.plan.group_named(label)?;
        self.change_rates(|rates| rates.set_group_lr(group, &format!("groups.{label:?}"), lr))
    }

    /// Sets the weight decay of the group with that name or glob, before a schedule of its own, for steps submitted from
    /// now on.
    ///
    /// # Errors
    /// There is no such group, or what [`Rates::set_group_weight_decay`] refuses; where the decay has a schedule, also what
    /// [`Optimizer::set_option`] refuses.
    pub fn set_group_weight_decay(&mut self, label: &str, lambda: f64) -> Result<()> {
        let group = self.plan.group_named(label)?;
        self.change_rates(|rates| rates.set_group_weight_decay(group, &format!("groups.{label:?}"), lambda))
    }

    /// Sets a numeric option of the group with that name or glob for steps submitted from now on; `"optimizer"` is the
    /// group of all tensors that no other claims. Tensors of other groups keep theirs. Builds no pipeline and waits for
    /// nothing.
    ///
    /// A group that shares its scalars with others, differing in rate and decay only, parts from them: its tensors go by
    /// their own counts from then on, as after a missing gradient, so that fewer steps can be recorded ahead
    /// ([`Optimizer::step`]).
    ///
    /// # Errors
    /// There is no such group, or what [`Rates::set_option`] refuses; [`Error::StepTableFull`](crate::Error::StepTableFull)
    /// if more steps are under way than such a group can have. Nothing is changed then.
    pub fn set_option(&mut self, label: &str, key: &str, value: impl Into<OptionValue>) -> Result<()> {
        let group = self.plan.group_named(label)?;
        let (table, value) = (self.plan.table_of(group), value.into());
        self.change_rates(|rates| rates.set_option(group, &table, key, &value))
    }

    /// The rate of `[optimizer]` in the step that is recorded next, if all that are under way are taken.
    pub fn lr(&self) -> f64 {
        self.rates.lr(self.next_count())
    }

    /// The rate of the group with that name or glob in that step, schedule and `lr_scale` in it.
    ///
    /// # Errors
    /// There is no such group.
    pub fn group_lr(&self, label: &str) -> Result<f64> {
        Ok(self.rates.group_lr(self.plan.group_named(label)?, self.next_count()))
    }

    fn next_count(&self) -> u64 {
        self.step_table.next_count(self.reports.dropped(), self.plan.gradient.accumulate)
    }

    /// Other rates, or where they cannot be written those of before.
    fn change_rates(&mut self, change: impl FnOnce(&mut Rates) -> Result<()>) -> Result<()> {
        let mut rates = self.rates.clone();
        change(&mut rates)?;
        let parting = self.step_table.parting(&rates);
        if parting.is_empty() {
            self.step_table.rates_changed(&mut &self.gpu, &rates)?;
        } else {
            self.collect()?;
            self.step_table.check_tracks(self.reports.dropped())?;
            // What takes the place of these is whole only when all is written.
            self.step_table.rates_may_be_stale();
            let (mut table, mut rows) = (self.step_table.clone(), self.tables.rows.clone());
            table.part(&parting);
            let of_group = |t: &usize| self.plan.is_live(*t) && parting.contains(&self.plan.tensors[*t].group);
            let tensors = (0..self.tensors.len()).filter(of_group).map(|tensor| (tensor, None));
            self.add_tracks(&mut &self.gpu, (&mut table, &mut rows), &rates, tensors)?;
            table.rates_changed(&mut &self.gpu, &rates)?;
            (self.step_table, self.tables.rows) = (table, rows);
        }
        self.rates = rates;
        Ok(())
    }
}
