//! When gradients are looked at, and what they are called.

use std::ops::Bound::{Excluded, Included};

use crate::options::range::{AT_LEAST_ONE, POSITIVE, RATE, Range};
use crate::options::{OptionError, Options as _};

const SHARE: Range = Range::new(Excluded(0.0), Included(1.0), "above 0, at most 1");

crate::options! {
    /// When to look at gradients and updates, and what to call them.
    ///
    /// A gradient's size is its root mean square (RMS), so that tensors of different lengths compare.
    pub struct HealthConfig {
        /// Recorded steps from one look to the next, micro-batches among them; of these the next that completes a step
        /// is looked at. A look costs one more read of the gradients.
        pub interval: u64 = 100, in AT_LEAST_ONE,
        /// Vanishing: the gradient's RMS is below this share of the largest tensor's. Sigmoid layers
        /// shrink it at least fourfold each (the derivative is at most ¼), so six layers reach 2.4e-4.
        pub vanishing: f64 = 1e-4, in RATE,
        /// Exploding: the gradient's RMS is above this, or any element is not finite.
        pub exploding: f64 = 1e3, in POSITIVE,
        /// Dead: at least this share of the gradient is exactly zero.
        pub dead: f64 = 0.99, in SHARE,
    }
}

impl HealthConfig {
    /// Whether every option can be used.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        self.check_ranges()
    }
}

/// When to look. A look is due at the first recorded step and whenever an interval has passed, and stays due until it is
/// taken: micro-batches count like steps, and most do not complete one.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    interval: u64,
    recorded: u64,
    is_due: bool,
}

impl Due {
    pub fn new(interval: u64) -> Self {
        Self { interval, recorded: 0, is_due: false }
    }

    /// Counts a step, and says whether to look at it, if one can.
    pub fn next(&mut self, can: bool) -> bool {
        self.is_due |= self.recorded.is_multiple_of(self.interval);
        self.recorded += 1;
        can && std::mem::take(&mut self.is_due)
    }

    /// The look that was taken saw nothing.
    pub fn again(&mut self) {
        self.is_due = true;
    }
}
