//! The state, out and in.

use super::stored::Stored;
use super::{CpuOptimizer, SlotValues};
use crate::error::Result;
use crate::plan::FACTORS;
use crate::rule::kernel::CpuFloat;
use crate::state::fed::Fed;
use crate::state::{OptimizerState, TensorState};

impl<F: CpuFloat> CpuOptimizer<F> {
    /// A copy of the state, by name. Where the moving average is swapped in, its slot holds the weights to train with, and
    /// the state says so ([`OptimizerState::swapped`]) and can be neither saved nor loaded.
    pub fn state(&self) -> OptimizerState<F> {
        let tensors = self.plan.kept_tensors().map(|t| {
            let names = self.plan.slots_of(t).into_iter().map(|s| s.name.to_owned());
            let SlotValues { steps, weight_sum, slots, factors } = &self.states[t];
            let mut storage = self.plan.slot_storage(t);
            for (slot, stored) in self.plan.variant_of(t).kept().zip(slots) {
                if let Some(own) = storage.iter_mut().find(|own| own.slot == slot.name) {
                    own.scales = stored.scales().to_vec();
                }
            }
            TensorState {
                name: self.plan.tensors[t].spec.name.clone(),
                shape: self.plan.tensors[t].spec.shape.clone(),
                rule: self.plan.group_of(t).rule.name().to_owned(),
                steps: *steps,
                weight_sum: *weight_sum,
                slots: names.zip(slots.iter().map(Stored::values).chain(factors.iter().cloned())).collect(),
                storage,
            }
        });
        OptimizerState { tensors: tensors.collect(), ..self.head() }.with_rates(self.rates.saved())
    }

    /// The state without its tensors.
    pub(super) fn head(&self) -> OptimizerState<F> {
        OptimizerState {
            steps_taken: self.steps_taken,
            steps_skipped: self.steps_skipped,
            micro_batches: self.micro_batches,
            loss_scale: self.loss_scale,
            dynamic_scale: self.plan.gradient.has_dynamic_scale(),
            good_steps: self.good_steps.into(),
            ema_interval: self.plan.ema.as_ref().map(|ema| ema.interval),
            config: Some(self.plan.config.to_string()),
            swapped: self.swapped,
            ..OptimizerState::default()
        }
    }

    /// Replaces the state.
    ///
    /// # Errors
    /// It does not fit the tensors; the moving average is swapped in. Nothing is changed then.
    pub fn load_state(&mut self, state: &OptimizerState<F>) -> Result<()> {
        state.check(&self.plan)?;
        self.check_unswapped("loading a state")?;
        let by_name = state.by_name();
        for (t, values) in self.states.iter_mut().enumerate() {
            let Some(saved) = by_name.get(self.plan.tensors[t].spec.name.as_str()) else {
                continue;
            };
            values.steps = saved.steps;
            values.weight_sum = saved.weight_sum;
            let saved_slot = |name: &str| saved.slots.iter().find(|(own, _)| own == name).map(|(_, values)| values);
            for (slot, values) in self.plan.variant_of(t).kept().zip(&mut values.slots) {
                if let Some(own) = saved_slot(slot.name) {
                    values.set(own, saved.scales(slot.name));
                }
            }
            for (name, values) in FACTORS.into_iter().zip(&mut values.factors) {
                if let Some(own) = saved_slot(name) {
                    values.clone_from(own);
                }
            }
        }
        self.steps_taken = state.steps_taken;
        self.steps_skipped = state.steps_skipped;
        (self.micro_batches, self.left_out) = (state.micro_batches, 0);
        (self.loss_scale, self.good_steps) = self.plan.gradient.resumed_scale(state.saved_scale());
        self.rates.resume(&state.saved_rates());
        self.fed = Fed::new(&self.plan, |t| self.states[t].steps > 0);
        if let Some(monitor) = &mut self.monitor {
            monitor.forget();
        }
        Ok(())
    }
}
