//! Noise that makes samples of steps.

use std::ops::Bound::Included;

use crate::options::range::Range;
use crate::options::{OptionError, Options as _};
use crate::rule::{Reduction, Rule};

/// Times the root of the largest rate its own root stays far within f32.
const TEMPERATURE: Range = Range::new(Included(0.0), Included(1e18), "from 0 to 1e18");

crate::options! {
    /// Noise after each step, the `[noise]` table: `p ← p + √(2·lr·temperature)·N(0,1)`, stochastic gradient Langevin
    /// dynamics (Welling & Teh 2011). lr is the step's, by the schedule; the ratios of rules do not count.
    pub struct NoiseConfig {
        /// 0 adds none. Where the loss is a mean over n examples, 1/n makes samples of the posterior.
        pub temperature: f64 = 1e-6, in TEMPERATURE,
        /// Of its random bits.
        pub seed: u64 = 0,
    }
}

impl NoiseConfig {
    /// Whether every option can be used.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        self.check_ranges()
    }

    /// What is multiplied with the root of the rate.
    pub(crate) fn root(&self) -> f64 {
        (2.0 * self.temperature).sqrt()
    }
}

/// Whether noise can follow the rule's steps.
pub(super) fn check_rule(rule: &dyn Rule) -> Result<(), OptionError> {
    let reason = match rule.reduction() {
        Reduction::Average => "averages its iterates, which are no samples",
        _ if !rule.scaled_by_lr() => "takes lr as its first step size only, and noise goes by the rate",
        _ => return Ok(()),
    };
    Err(OptionError::new("rule", format!("{:?} {reason}: it cannot have [noise]", rule.name())))
}
