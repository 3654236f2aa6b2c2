//! Other tensors, other groups, other rows: the state follows, as on the GPU.

use super::stored::Stored;
use super::{CpuOptimizer, SlotValues};
use crate::config::OptimizerConfig;
use crate::tensor::TensorSpec;
use crate::twin::Element;
use crate::{Error, Result};

impl<F: Element> CpuOptimizer<F> {
    /// Takes tensors in, after those that are there. Their state starts anew and their count of steps at 0. All
    /// others go on as if nothing had happened.
    ///
    /// # Errors
    /// As [`CpuOptimizer::new`]; nothing is changed then.
    pub fn add_tensors(&mut self, specs: impl IntoIterator<Item = TensorSpec>) -> Result<()> {
        let specs: Vec<_> = self.specs().chain(specs).collect();
        self.reconfigure(&self.config.clone(), &specs)
    }

    /// Lets tensors go, their state with them. Places of those that stay close up.
    ///
    /// # Errors
    /// There is no such tensor, or a group is left without any; nothing is changed then.
    pub fn remove_tensors(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.plan.tensor_named(name).ok_or_else(|| Error::no_tensor(name))?;
        }
        let specs: Vec<_> = self.specs().filter(|spec| !names.contains(&spec.name.as_str())).collect();
        self.reconfigure(&self.config.clone(), &specs)
    }

    /// Goes on with another configuration and other tensors. The state of a tensor follows where its rule is
    /// the same: by name, slot by slot. Rates set at run time give way to the new configuration's where its
    /// groups differ.
    ///
    /// # Errors
    /// As [`CpuOptimizer::new`]; or `[ema]` is new, and there are steps whose weights it would lack. Nothing is
    /// changed then.
    pub fn reconfigure(&mut self, config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<()> {
        self.rebuild(config, specs, None)
    }

    fn rebuild(&mut self, config: &OptimizerConfig, specs: &[TensorSpec], moved: Option<usize>) -> Result<()> {
        let mut next = Self::new(config, specs)?;
        let old = self.plan.kept_in(&next.plan, moved)?;
        let goes_on = old.iter().any(Option::is_some);
        self.plan.check_change(&next.plan, self.steps_taken, self.micro_batches, goes_on)?;
        for (t, source) in old.into_iter().enumerate() {
            let Some(source) = source else { continue };
            let SlotValues { steps, weight_sum, slots, factors } = &self.states[source];
            (next.states[t].steps, next.states[t].weight_sum) = (*steps, *weight_sum);
            if moved == Some(t) {
                continue;
            }
            let names: Vec<_> = self.plan.variant_of(source).kept().map(|s| s.name).collect();
            for (slot, values) in next.plan.variant_of(t).kept().zip(&mut next.states[t].slots) {
                if let Some(kept) = names.iter().position(|name| *name == slot.name) {
                    values.clone_from(&slots[kept]);
                }
            }
            next.states[t].factors.clone_from(factors);
        }
        if self.plan.same_groups(&next.plan) {
            next.rates = self.rates.clone();
        }
        next.rates.resume(next.rates.state().as_ref(), self.rates.plateau());
        (next.steps_taken, next.steps_skipped) = (self.steps_taken, self.steps_skipped);
        next.micro_batches = self.micro_batches;
        next.loss_scale = next.plan.gradient.resumed_scale(self.loss_scale);
        next.good_steps = self.good_steps;
        next.monitor = self.monitor.take();
        *self = next;
        Ok(())
    }

    /// Gives a tensor other rows, along the first dimension: new row `i` is the old row `rows[i]`, with all its
    /// slots, or one whose slots start anew where that is `None`. The parameters are the caller's to move.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen or has no rows, or an old row does not exist; nothing is changed then.
    pub fn set_rows(&mut self, name: &str, rows: &[Option<u32>]) -> Result<()> {
        let tensor = self.plan.movable_tensor(name)?;
        let mut specs: Vec<_> = self.specs().collect();
        let planned = &self.plan.tensors[tensor];
        let (count, width) = planned.rows()?;
        specs[tensor].shape[0] = rows.len() as u64;
        let sources = planned.row_sources(&specs[tensor], rows)?;
        let initial = self.plan.initial_of(tensor);
        let gather = |values: &Vec<F>, width: u64, initial: f64| -> Vec<F> {
            let row = |source: &u32| match u64::from(*source) {
                source if source < count => values[(source * width) as usize..][..width as usize].to_vec(),
                _ => vec![F::of(initial); width as usize],
            };
            sources.iter().flat_map(row).collect()
        };
        let old = &self.states[tensor];
        let slots: Vec<_> =
            old.slots.iter().map(Stored::values).zip(initial).map(|(values, x)| gather(&values, width, x)).collect();
        let widths = self.plan.factor_widths(tensor);
        let by_line =
            |(values, width): (&Vec<F>, &Option<u64>)| width.map_or(values.clone(), |w| gather(values, w, 0.0));
        let factors: Vec<_> = old.factors.iter().zip(&widths).map(by_line).collect();
        self.rebuild(&self.config.clone(), &specs, Some(tensor))?;
        let new = &mut self.states[tensor];
        for (slot, values) in new.slots.iter_mut().zip(slots) {
            slot.set(&values, None);
        }
        // None where no elements are left, or were.
        new.factors.iter_mut().zip(factors).for_each(|(to, from)| *to = from);
        Ok(())
    }

    /// Rows of a tensor start anew: their slots become what they start from. The parameters are the caller's to
    /// set.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen or has no rows, or not so many; nothing is changed then.
    pub fn zero_rows(&mut self, name: &str, rows: &[u32]) -> Result<()> {
        let tensor = self.plan.movable_tensor(name)?;
        let (count, width) = self.plan.tensors[tensor].rows()?;
        if let Some(row) = rows.iter().find(|row| u64::from(**row) >= count) {
            return Err(Error::no_row(name, (*row).into(), count));
        }
        let initial = self.plan.initial_of(tensor);
        for (slot, initial) in self.states[tensor].slots.iter_mut().zip(initial) {
            let Some(values) = slot.wide_mut() else { continue };
            for row in rows {
                let first = (u64::from(*row) * width) as usize;
                values[first..first + width as usize].fill(F::of(initial));
            }
        }
        let widths = self.plan.factor_widths(tensor);
        for (values, width) in self.states[tensor].factors.iter_mut().zip(widths) {
            let Some(width) = width else { continue };
            for row in rows {
                let first = (u64::from(*row) * width) as usize;
                values[first..first + width as usize].fill(F::zero());
            }
        }
        Ok(())
    }

    fn specs(&self) -> impl Iterator<Item = TensorSpec> {
        self.plan.tensors.iter().map(|planned| planned.spec.clone())
    }
}
