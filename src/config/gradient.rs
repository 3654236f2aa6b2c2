//! What happens to a gradient before its rule sees it.
//!
//! The order is fixed: unscaling (loss scale, mean over micro-batches), non-finite test on the loaded bits, clip by value, clip by norm or normalise
//! (the norm is of the value-clipped gradients), coupled weight decay, the rule.

use std::ops::Bound::Included;

use super::loss_scale::{LOSS_SCALE, LossScale, SavedScale};
use crate::options::range::{DIVISOR, Range};
use crate::options::{OptionError, Options as _, words};

const MICRO_BATCHES: Range =
    Range::new(Included(1.0), Included((1 << 20) as f64), "from 1 to 2^20").told("from 1 to 1048576");

/// What a NaN or an infinity in a gradient does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnNonfinite {
    /// The whole step is left out, decided on the GPU: no parameter, state or count changes.
    #[default]
    Skip,
    /// The elements count as zero.
    Zero,
    /// No test; they reach the parameters, best effort (WGSL lets a compiler assume that they do not
    /// exist). Saves the read that a test costs where no norm is needed.
    Propagate,
}

words!(OnNonfinite: "\"skip\", \"zero\" or \"propagate\"" {
    "skip" => Skip, "zero" => Zero, "propagate" => Propagate,
});

crate::options! {
    /// Gradient conditioning, the `[gradient]` table.
    pub struct GradientConfig {
        /// What the loss was multiplied with.
        pub loss_scale: Option<LossScale> = None, in LOSS_SCALE,
        /// Gradients that make a step: their mean is its gradient.
        pub accumulate: u64 = 1, in MICRO_BATCHES,
        /// What a NaN or an infinity does.
        pub on_nonfinite: OnNonfinite = OnNonfinite::Skip,
        /// Each element is kept within ±this.
        pub clip_value: Option<f64> = None, in DIVISOR,
        /// All gradients times `min(1, c / (‖g‖ + 1e-6))`, the norm over all tensors, as PyTorch's
        /// `clip_grad_norm_`.
        pub clip_global_norm: Option<f64> = None, in DIVISOR,
        /// The same for each tensor by itself.
        pub clip_tensor_norm: Option<f64> = None, in DIVISOR,
        /// Each tensor's gradient scaled so that its largest magnitude is at most this: truncation
        /// that keeps the direction.
        pub clip_max_abs: Option<f64> = None, in DIVISOR,
        /// Each unit's gradient scaled so that its norm is at most this times the norm of the unit's
        /// weights, or of 1e-3 where that is less (Brock et al. 2021), as Optax's `adaptive_grad_clip`.
        pub clip_adaptive: Option<f64> = None, in DIVISOR,
        /// All gradients times `c / ‖g‖`, always; a zero gradient stays zero.
        pub normalize_global_norm: Option<f64> = None, in DIVISOR,
    }
}

/// Added to the norm before it divides, as PyTorch does.
pub const NORM_EPS: f64 = 1e-6;

/// The least norm that a unit's weights count with, as Optax does: weights that start at zero must move.
pub const UNIT_EPS: f64 = 1e-3;

impl GradientConfig {
    /// Whether every option can be used.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        self.check_ranges()?;
        if let Some(scale) = &self.loss_scale {
            scale.check()?;
            if self.has_dynamic_scale() && self.on_nonfinite != OnNonfinite::Skip {
                return Err(OptionError::new("loss_scale", "a dynamic one needs on_nonfinite = \"skip\""));
            }
        }
        match self.norm_keys().as_slice() {
            [(first, _), (second, _), ..] => {
                Err(OptionError::new(second, format!("at most one norm-type key may be given, and {first} is")))
            }
            _ => Ok(()),
        }
    }

    /// The norm-type keys that are given, of which one is allowed, with their limits.
    fn norm_keys(&self) -> Vec<(&'static str, f64)> {
        let keys = [
            ("clip_global_norm", self.clip_global_norm),
            ("clip_tensor_norm", self.clip_tensor_norm),
            ("clip_max_abs", self.clip_max_abs),
            ("clip_adaptive", self.clip_adaptive),
            ("normalize_global_norm", self.normalize_global_norm),
        ];
        keys.into_iter().filter_map(|(key, limit)| Some((key, limit?))).collect()
    }

    /// The limit of the norm-type key that is given.
    pub(crate) fn norm_limit(&self) -> Option<f64> {
        self.norm_keys().first().map(|(_, limit)| *limit)
    }

    /// The factor of the gradients for their global norm. [`shaders/prepare.wgsl`] computes the same
    /// from a norm kept as mantissa and exponent.
    ///
    /// [`shaders/prepare.wgsl`]: https://docs.rs/crate/wgpu-optim/latest/source/shaders/prepare.wgsl
    pub(crate) fn coefficient(&self, norm: f64) -> f64 {
        if let Some(limit) = self.clip_global_norm {
            (limit / (norm + NORM_EPS)).min(1.0)
        } else if let Some(target) = self.normalize_global_norm {
            if norm == 0.0 { 0.0 } else { target / norm }
        } else {
            1.0
        }
    }

    /// The factor of one tensor's gradient for its own norm or largest magnitude.
    pub(crate) fn tensor_coefficient(&self, norm: f64, largest: f64) -> f64 {
        if let Some(limit) = self.clip_tensor_norm {
            (limit / (norm + NORM_EPS)).min(1.0)
        } else if let Some(limit) = self.clip_max_abs {
            if largest <= limit { 1.0 } else { limit / largest }
        } else {
            1.0
        }
    }

    /// The factor of a unit's gradient for its own norm and that of its weights.
    pub(crate) fn unit_coefficient(&self, gradient: f64, weights: f64) -> f64 {
        let limit = self.clip_adaptive.unwrap_or(f64::INFINITY) * weights.max(UNIT_EPS);
        if gradient < limit { 1.0 } else { limit / gradient.max(NORM_EPS) }
    }

    /// Whether several gradients make a step.
    pub(crate) fn accumulates(&self) -> bool {
        self.accumulate > 1
    }

    /// Whether gradients are multiplied as they are read.
    pub(crate) fn needs_unscaling(&self) -> bool {
        self.loss_scale.is_some() || self.accumulates()
    }

    /// What undoes that loss scale: micro-batches are multiplied with it as they are added up.
    pub(crate) fn unscale(&self, loss_scale: f64) -> f64 {
        1.0 / loss_scale
    }

    /// What takes the mean over micro-batches.
    pub(crate) fn mean(&self) -> f64 {
        1.0 / self.accumulate as f64
    }

    /// What a step's gradient is multiplied with, which is a sum without a loss scale where it has micro-batches.
    pub(crate) fn factor(&self, loss_scale: f64) -> f64 {
        if self.accumulates() { self.mean() } else { self.unscale(loss_scale) }
    }

    /// Whether a step looks for non-finite elements of its gradients and for nothing else.
    pub(crate) fn only_finds(&self) -> bool {
        self.on_nonfinite == OnNonfinite::Skip && !self.needs_factors()
    }

    /// Whether non-finite elements are counted as each micro-batch brings them: they leave no trace in the sum.
    pub(crate) fn counts_each(&self) -> bool {
        self.accumulates() && self.on_nonfinite == OnNonfinite::Zero && self.needs_scan()
    }

    /// The loss scale at the start.
    pub(crate) fn initial_scale(&self) -> f64 {
        self.loss_scale.map_or(1.0, |scale| scale.initial())
    }

    /// The loss scale to go on with, and the good steps it has had. Only one that moves goes on from one that moved;
    /// all others are the configuration's.
    pub(crate) fn resumed_scale(&self, saved: SavedScale) -> (f64, u32) {
        match self.loss_scale {
            Some(LossScale::Dynamic(dynamic)) if saved.is_dynamic => {
                // As many as let the scale grow after the next good step.
                let most = dynamic.growth_interval.saturating_sub(1);
                (saved.scale, saved.good_steps.min(most.into()) as u32)
            }
            _ => (self.initial_scale(), 0),
        }
    }

    /// Whether the loss scale moves.
    pub(crate) fn has_dynamic_scale(&self) -> bool {
        matches!(self.loss_scale, Some(LossScale::Dynamic(_)))
    }

    /// Whether a limit goes by tensor.
    pub(crate) fn by_tensor(&self) -> bool {
        self.clip_tensor_norm.is_some() || self.clip_max_abs.is_some()
    }

    /// Whether a step needs the norm of all gradients.
    pub fn needs_norm(&self) -> bool {
        self.clip_global_norm.is_some() || self.normalize_global_norm.is_some()
    }

    /// Whether gradients are scaled by something that their sums decide.
    pub(crate) fn needs_factors(&self) -> bool {
        self.needs_norm() || self.by_tensor()
    }

    /// Whether a step must read all gradients before it may change anything.
    pub fn needs_scan(&self) -> bool {
        self.needs_factors() || self.on_nonfinite == OnNonfinite::Skip
    }
}
