//! Rates that change while a run goes on.

use super::optimizer::Optimizer;
use crate::error::Result;
use crate::plan::rates::Rates;

impl Optimizer {
    /// Sets `[optimizer].lr` for steps submitted from now on; groups keep their ratio to it.
    ///
    /// # Errors
    /// What [`Rates::set_lr`] refuses.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.change_rates(|rates| rates.set_lr(lr))
    }

    /// Tells a `plateau` schedule the loss; it acts on steps submitted from now on.
    ///
    /// # Errors
    /// The schedule is of another kind.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        self.change_rates(|rates| rates.report_loss(loss))
    }

    /// Sets the learning rate of the group with that glob for steps submitted from now on.
    ///
    /// # Errors
    /// There is no such group, or the rate is negative or not finite.
    pub fn set_group_lr(&mut self, pattern: &str, lr: f64) -> Result<()> {
        let group = self.plan.group_named(pattern)?;
        self.change_rates(|rates| rates.set_group_lr(group, &format!("groups.{pattern:?}"), lr))
    }

    /// Sets the weight decay of the group with that glob for steps submitted from now on.
    ///
    /// # Errors
    /// There is no such group, its rule has no weight decay, or λ is negative or not finite.
    pub fn set_group_weight_decay(&mut self, pattern: &str, lambda: f64) -> Result<()> {
        let group = self.plan.group_named(pattern)?;
        self.change_rates(|rates| rates.set_group_weight_decay(group, &format!("groups.{pattern:?}"), lambda))
    }

    /// Other rates, or where they cannot be written those of before.
    fn change_rates(&mut self, change: impl FnOnce(&mut Rates) -> Result<()>) -> Result<()> {
        let mut rates = self.rates.clone();
        change(&mut rates)?;
        self.step_table.rates_changed(&mut &self.gpu, &rates)?;
        self.rates = rates;
        Ok(())
    }
}
