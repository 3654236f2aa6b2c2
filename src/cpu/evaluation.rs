//! Other weights to evaluate with: the moving average, and those of rules that average their iterates.

use ndarray::{ArrayD, ArrayViewMutD};

use super::CpuOptimizer;
use super::stored::Stored;
use super::tasks::{refresh, round};
use crate::error::{Error, Result};
use crate::plan::{EMA, MASTER};
use crate::rule::kernel::{Block, ByLine, CpuFloat, UpdateSettings};

impl<F: CpuFloat> CpuOptimizer<F> {
    /// Exchanges all parameters with their moving average: once to evaluate with it, once more to go on
    /// training. Tensors that have no average yet stay as they are. Between the two there can be no step.
    ///
    /// # Errors
    /// No `[ema]` is configured; the number of tensors or a shape differs. Nothing is changed then.
    pub fn swap_ema(&mut self, params: &mut [ArrayViewMutD<'_, F>]) -> Result<()> {
        let Some(ema) = &self.plan.ema else {
            return Err(Error::call("swap_ema", "no moving average is kept: the configuration has no [ema]"));
        };
        self.check_shapes("swap_ema", params.iter().map(|p| p.shape()))?;
        for (t, (params, values)) in params.iter_mut().zip(&mut self.states).enumerate() {
            if values.steps < ema.interval {
                continue;
            }
            let variant = self.plan.variant_of(t);
            let mut engine = values.slots.iter_mut().zip(&variant.engine);
            let mut taken = |name| engine.find(|(_, slot)| slot.name == name).and_then(|(stored, _)| stored.wide_mut());
            // In the order of the engine's slots.
            let (average, master) = (taken(EMA), taken(MASTER));
            match (average, master) {
                (Some(average), Some(master)) => {
                    let format = variant.storage.params;
                    let stored: Vec<F> = params.iter().copied().collect();
                    refresh(format, &stored, master);
                    average.iter_mut().zip(&mut *master).for_each(|(a, w)| exchange(a, w));
                    params.iter_mut().zip(master).for_each(|(p, weight)| *p = round(format, *weight));
                }
                (Some(average), None) => params.iter_mut().zip(average).for_each(|(p, a)| exchange(a, p)),
                _ => {}
            }
        }
        self.swapped = !self.swapped;
        Ok(())
    }

    /// Refuses what must not meet the average in the weights' place.
    pub(super) fn check_unswapped(&self, call: &str) -> Result<()> {
        if self.swapped {
            let problem = "the moving average lies in the parameters' place; swap_ema once more first";
            return Err(Error::call(call, problem));
        }
        Ok(())
    }

    /// The weights to evaluate with: of rules that average their iterates (`schedule_free_adamw`) the
    /// average, of others, and of tensors that have taken no step, the parameters as they are.
    ///
    /// # Errors
    /// The number of tensors or a shape differs; the moving average is swapped in.
    pub fn evaluation_weights(&self, params: &[ArrayViewMutD<'_, F>]) -> Result<Vec<ArrayD<F>>> {
        self.check_unswapped("evaluation_weights")?;
        self.check_shapes("evaluation_weights", params.iter().map(|p| p.shape()))?;
        let weights = params.iter().zip(&self.states).enumerate().map(|(t, (params, values))| {
            let mut weights = params.as_standard_layout().into_owned();
            let variant = self.plan.variant_of(t);
            let averages = variant.averages() && self.plan.is_live(t) && values.steps > 0;
            if let Some(params) = weights.as_slice_mut().filter(|_| averages) {
                let rule = self.plan.group_of(t).rule.as_ref();
                let format = variant.storage.params;
                if let Some(mut master) = variant.engine_slot(MASTER).map(|slot| values.slots[slot].values()) {
                    refresh(format, params, &mut master);
                    params.copy_from_slice(&master);
                }
                let mut slots: Vec<_> = values.slots[variant.engine.len()..].iter().map(Stored::values).collect();
                let block = Block {
                    params: &mut *params,
                    gradients: &[],
                    slots: slots.iter_mut().map(Vec::as_mut_slice).collect(),
                    active: &variant.active,
                    scalars: &self.rates.scalars(self.plan.tensors[t].group, values.steps.saturating_sub(1)),
                    settings: UpdateSettings::default(),
                    by_line: ByLine::default(),
                };
                F::evaluate(rule, block);
                params.iter_mut().for_each(|p| *p = round(format, *p));
            }
            weights
        });
        Ok(weights.collect())
    }
}

/// A weight and its average, where it has one: rows that joined the tensor after its last averaging have none.
fn exchange<F: CpuFloat>(average: &mut F, weight: &mut F) {
    if !average.is_nan() {
        std::mem::swap(average, weight);
    }
}
