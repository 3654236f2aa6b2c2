//! Other tensors, other groups, other rows: the state follows, as on the GPU.

use std::collections::HashSet;

use super::stored::{Stored, copy_rows};
use super::{CpuOptimizer, Monitor, SlotValues};
use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::rule::kernel::CpuFloat;
use crate::state::fed::Fed;
use crate::tensor::TensorSpec;

impl<F: CpuFloat> CpuOptimizer<F> {
    /// Takes tensors in, after those that are there. Their state starts anew and their count of steps at 0. All
    /// others go on as if nothing had happened.
    ///
    /// # Errors
    /// As [`CpuOptimizer::new`]; or the moving average is swapped in. Nothing is changed then.
    pub fn add_tensors(&mut self, specs: impl IntoIterator<Item = TensorSpec>) -> Result<()> {
        let specs: Vec<_> = self.specs().chain(specs).collect();
        self.rebuild(None, &specs, None)
    }

    /// Lets tensors go, their state with them. Places of those that stay close up. A group that is left without any
    /// stays, for tensors that come later.
    ///
    /// # Errors
    /// There is no such tensor; as [`CpuOptimizer::add_tensors`]. Nothing is changed then.
    pub fn remove_tensors(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.plan.tensor_named(name).ok_or_else(|| Error::no_tensor(name))?;
        }
        let names: HashSet<&str> = names.iter().copied().collect();
        let specs: Vec<_> = self.specs().filter(|spec| !names.contains(spec.name.as_str())).collect();
        self.rebuild(None, &specs, None)
    }

    /// Goes on with another configuration and other tensors. The state of a tensor follows where its rule is
    /// the same: by name, slot by slot. A tensor that changes its rule starts anew. Rates set at run time stay where
    /// the groups and their options are the same, and else give way to the new configuration's; the schedule is
    /// always the new one, at the count of steps so far.
    ///
    /// # Errors
    /// `[ema]` is new, and there are steps whose weights it would lack; as [`CpuOptimizer::add_tensors`]. Nothing is
    /// changed then.
    pub fn reconfigure(&mut self, config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<()> {
        self.rebuild(Some(config), specs, None)
    }

    /// With another configuration, or its own, under which groups may have lost their tensors.
    fn rebuild(&mut self, config: Option<&OptimizerConfig>, specs: &[TensorSpec], moved: Option<usize>) -> Result<()> {
        self.check_unswapped("a change of tensors")?;
        let plan = match config {
            Some(config) => Plan::new(config, specs)?,
            None => Plan::going_on(&self.config, specs)?,
        };
        let mut next = Self::of_plan(config.unwrap_or(&self.config), plan);
        let old = self.plan.kept_in(&next.plan, moved)?;
        let goes_on = old.iter().any(Option::is_some);
        self.plan.check_change(&next.plan, self.steps_taken, self.micro_batches, goes_on)?;
        next.fed = Fed::new(&next.plan, |t| old[t].is_some_and(|t| self.fed.has(t)));
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
        next.rates = self.rates.under(&self.plan, &next.plan)?;
        (next.steps_taken, next.steps_skipped) = (self.steps_taken, self.steps_skipped);
        next.micro_batches = self.micro_batches;
        (next.loss_scale, next.good_steps) = next.plan.gradient.resumed_scale(self.head().saved_scale());
        next.monitor = self.monitor.as_ref().map(Monitor::anew);
        *self = next;
        Ok(())
    }

    /// Gives a tensor other rows, along the first dimension: new row `i` is the old row `rows[i]`, with all its
    /// slots, or one whose slots start anew where that is `None`, averages of the weights from the parameters that it then has.
    /// The parameters are the caller's to move.
    ///
    /// New rows have no bias correction of their own, since the
    /// tensor's count of steps stays: under `adam` and its kin (all that divide by the root of a moving average) their first
    /// steps are three to seven times as large as those of other rows (with betas of 0.9 and 0.999), which fades over some
    /// 1/(1 - beta2) steps. Where that is too much, give a new row the state of one that it resembles (`Some` of the row it
    /// was split from), keep new rows in a tensor of their own for as long, or lower the rate.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen or has no rows, or an old row does not exist; its state is `q8`, and its
    /// rows are no multiple of 256 elements or less than 4,096 elements are left; or the moving average is swapped in.
    /// Nothing is changed then.
    pub fn set_rows(&mut self, name: &str, rows: &[Option<u32>]) -> Result<()> {
        let tensor = self.plan.movable_tensor(name)?;
        let mut specs: Vec<_> = self.specs().collect();
        let planned = &self.plan.tensors[tensor];
        let (count, width) = planned.rows()?;
        specs[tensor].shape[0] = rows.len() as u64;
        let sources = planned.row_sources(&specs[tensor], rows)?;
        let kept = |(new, old): (usize, &u32)| (u64::from(*old) < count).then_some((new, *old as usize));
        let pairs: Vec<_> = sources.iter().enumerate().filter_map(kept).collect();
        let widths = self.plan.factor_widths(tensor);
        let old = self.states[tensor].clone();
        self.rebuild(None, &specs, Some(tensor))?;
        let new = &mut self.states[tensor];
        for (to, from) in new.slots.iter_mut().zip(&old.slots) {
            to.copy_rows(from, &pairs, width as usize);
        }
        // None where no elements are left, or were.
        for ((to, from), width) in new.factors.iter_mut().zip(&old.factors).zip(widths) {
            match width {
                Some(width) => copy_rows(to, from, &pairs, width as usize),
                None => to.clone_from(from),
            }
        }
        let fresh = sources.iter().enumerate().filter(|(_, old)| u64::from(**old) >= count);
        self.start_rows(tensor, width, fresh.map(|(new, _)| new).collect());
        Ok(())
    }

    /// Rows of a tensor start anew: their slots become what they start from. The parameters are the caller's to
    /// set. What [`CpuOptimizer::set_rows`] says of new rows holds.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen or has no rows, or not so many; its state is `q8` and its rows are no
    /// multiple of 256 elements; or the moving average is swapped in. Nothing is changed then.
    pub fn zero_rows(&mut self, name: &str, rows: &[u32]) -> Result<()> {
        self.check_unswapped("zero_rows")?;
        let tensor = self.plan.movable_tensor(name)?;
        let (count, width) = self.plan.tensors[tensor].rows()?;
        if let Some(row) = rows.iter().find(|row| u64::from(**row) >= count) {
            return Err(Error::no_row(name, (*row).into(), count));
        }
        self.start_rows(tensor, width, rows.iter().map(|row| *row as usize).collect());
        Ok(())
    }

    /// Gives rows what slots of new rows start from.
    fn start_rows(&mut self, tensor: usize, width: u64, rows: Vec<usize>) {
        let starts = self.plan.row_initial_of(tensor);
        let formats = self.plan.variant_of(tensor).formats().zip(self.plan.variant_of(tensor).kept());
        let pairs: Vec<_> = rows.iter().map(|row| (*row, 0)).collect();
        for ((slot, (format, kept)), start) in self.states[tensor].slots.iter_mut().zip(formats).zip(starts) {
            let fresh = Stored::new(format, kept.signed, start, width as usize);
            slot.copy_rows(&fresh, &pairs, width as usize);
        }
        let widths = self.plan.factor_widths(tensor);
        for (values, width) in self.states[tensor].factors.iter_mut().zip(widths) {
            let Some(width) = width else { continue };
            let width = width as usize;
            rows.iter().for_each(|row| values[row * width..][..width].fill(F::zero()));
        }
    }

    fn specs(&self) -> impl Iterator<Item = TensorSpec> {
        self.plan.tensors.iter().map(|planned| planned.spec.clone())
    }
}
