//! Other weights to evaluate with: the moving average, and those of rules that average their iterates.

use ndarray::{ArrayD, ArrayViewMutD};

use super::CpuOptimizer;
use crate::step::EMA;
use crate::twin::{Around, Block, ByLine, Element};
use crate::{Error, Result};

impl<F: Element> CpuOptimizer<F> {
    /// Exchanges all parameters with their moving average: once to evaluate with it, once more to go on
    /// training. Tensors that have no average yet stay as they are.
    ///
    /// # Errors
    /// No `[ema]` is configured; the number of tensors or a shape differs. Nothing is changed then.
    pub fn swap_ema(&mut self, params: &mut [ArrayViewMutD<'_, F>]) -> Result<()> {
        let Some(ema) = &self.plan.ema else {
            return Err(Error::Config("no moving average is kept: the configuration has no [ema]".to_owned()));
        };
        self.check_shapes(params.iter().map(|p| p.shape()))?;
        for (t, (params, values)) in params.iter_mut().zip(&mut self.states).enumerate() {
            let slot = self.plan.variant_of(t).engine_slot(EMA).filter(|_| values.steps >= ema.interval);
            if let Some(average) = slot.and_then(|slot| values.slots.get_mut(slot)) {
                params.iter_mut().zip(average).for_each(|(p, a)| std::mem::swap(p, a));
            }
        }
        Ok(())
    }

    /// The weights to evaluate with: of rules that average their iterates (`schedule_free_adamw`) the
    /// average, of others, and of tensors that have taken no step, the parameters as they are.
    ///
    /// # Errors
    /// The number of tensors or a shape differs.
    pub fn evaluation_weights(&self, params: &[ArrayViewMutD<'_, F>]) -> Result<Vec<ArrayD<F>>> {
        self.check_shapes(params.iter().map(|p| p.shape()))?;
        let weights = params.iter().zip(&self.states).enumerate().map(|(t, (params, values))| {
            let mut weights = params.as_standard_layout().into_owned();
            let variant = self.plan.variant_of(t);
            let averages = variant.averages() && self.plan.is_live(t) && values.steps > 0;
            if let Some(params) = weights.as_slice_mut().filter(|_| averages) {
                let rule = self.plan.group_of(t).rule.as_ref();
                let mut slots = values.slots[variant.engine.len()..].to_vec();
                let block = Block {
                    params,
                    gradients: &[],
                    slots: slots.iter_mut().map(Vec::as_mut_slice).collect(),
                    active: &variant.active,
                    scalars: &rule.scalars(values.steps),
                    around: Around::default(),
                    by_line: ByLine::default(),
                };
                F::evaluate(rule, block);
            }
            weights
        });
        Ok(weights.collect())
    }
}
