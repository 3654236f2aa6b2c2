//! What the passes saw, tensor by tensor, and a verdict: vanishing, exploding, dead or healthy.

use crate::config::HealthConfig;

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
