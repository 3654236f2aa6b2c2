//! What the passes saw, tensor by tensor, and a verdict: vanishing, exploding, dead or healthy.

use crate::options::{OptionError, check};

crate::options! {
    /// When to look at gradients and updates, and what to call them.
    ///
    /// A gradient's size is its root mean square (RMS), so that tensors of different lengths compare.
    pub struct HealthConfig {
        /// Recorded steps from one look to the next, micro-batches among them; of these the next that completes a step
        /// is looked at. A look costs one more read of the gradients.
        pub interval: u64 = 100,
        /// Vanishing: the gradient's RMS is below this share of the largest tensor's. Sigmoid layers
        /// shrink it at least fourfold each (the derivative is at most ¼), so six layers reach 2.4e-4.
        pub vanishing: f64 = 1e-4,
        /// Exploding: the gradient's RMS is above this, or any element is not finite.
        pub exploding: f64 = 1e3,
        /// Dead: at least this share of the gradient is exactly zero.
        pub dead: f64 = 0.99,
    }
}

impl HealthConfig {
    /// Whether every option can be used.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        if self.interval == 0 {
            return Err(OptionError::new("interval", "must be at least 1, got 0"));
        }
        check::rate("vanishing", self.vanishing)?;
        check::positive("exploding", self.exploding)?;
        if !(self.dead > 0.0 && self.dead <= 1.0) {
            return Err(OptionError::new("dead", format!("must be above 0, at most 1, got {:?}", self.dead)));
        }
        Ok(())
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

/// What to think of a tensor's gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// None of the below.
    Healthy,
    /// So small beside the others that the tensor hardly learns.
    Vanishing,
    /// So large, or not finite, that a step does harm.
    Exploding,
    /// Almost all zero: units that no input reaches.
    Dead,
}

/// What one step's passes saw of one tensor.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorHealth {
    /// The tensor's name.
    pub name: String,
    /// Norm of the gradient after the clip by value, over finite elements.
    pub gradient_norm: f64,
    /// Largest magnitude of the gradient, likewise.
    pub gradient_max: f64,
    /// Root mean square of the gradient.
    pub gradient_rms: f64,
    /// Share of gradient elements that are exactly zero.
    pub zeros: f64,
    /// Share of gradient elements that are not finite.
    pub nonfinite: f64,
    /// Norm of the step's change over the norm of the weights before it, both before they are rounded to 16 bits where
    /// they are stored so (the f32 master, where there is one); `None` where the step was skipped or the weights are zero. Around 1e-3 is common in healthy training.
    pub update_ratio: Option<f64>,
    /// What to think of it.
    pub verdict: Verdict,
}

/// What one step's passes saw of all tensors.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Health {
    /// Steps taken when it was seen, that one included if it was.
    pub steps_taken: u64,
    /// The tensors that had a gradient, in the caller's order.
    pub tensors: Vec<TensorHealth>,
}

/// Sums over a tensor, as the passes bring them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub elements: u64,
    pub gradient_norm: f64,
    pub gradient_max: f64,
    pub zeros: u64,
    pub nonfinite: u64,
    pub weights_norm: f64,
    pub change_norm: f64,
}

impl Health {
    pub(crate) fn judge(config: &HealthConfig, steps_taken: u64, seen: Vec<(String, Seen)>) -> Self {
        let rms = |s: &Seen| s.gradient_norm / (s.elements as f64).sqrt();
        let largest = seen.iter().map(|(_, s)| rms(s)).fold(0.0, f64::max);
        let tensors = seen
            .into_iter()
            .map(|(name, s)| {
                let share = |count: u64| count as f64 / s.elements as f64;
                let gradient_rms = rms(&s);
                let verdict = if s.nonfinite > 0 || gradient_rms > config.exploding {
                    Verdict::Exploding
                } else if share(s.zeros) >= config.dead {
                    Verdict::Dead
                } else if gradient_rms < config.vanishing * largest {
                    Verdict::Vanishing
                } else {
                    Verdict::Healthy
                };
                TensorHealth {
                    name,
                    gradient_norm: s.gradient_norm,
                    gradient_max: s.gradient_max,
                    gradient_rms,
                    zeros: share(s.zeros),
                    nonfinite: share(s.nonfinite),
                    update_ratio: (s.weights_norm > 0.0).then(|| s.change_norm / s.weights_norm),
                    verdict,
                }
            })
            .collect();
        Self { steps_taken, tensors }
    }
}
