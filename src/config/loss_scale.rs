//! Loss scaling: gradients of a loss that was multiplied, so that half precision does not lose them.

use std::ops::Bound::Included;

use crate::options::range::Range;
use crate::options::{OptionError, OptionField, OptionValue};

/// Both the scale and its inverse, over micro-batches, must stay normal f32 numbers.
pub(crate) const RANGE: std::ops::RangeInclusive<f64> = 1.0 / (1u128 << 64) as f64..=(1u128 << 64) as f64;

/// The same, as the range of the option.
pub(super) const LOSS_SCALE: Range = Range::new(Included(*RANGE.start()), Included(*RANGE.end()), "from 2^-64 to 2^64");

/// What the caller multiplies the loss with; the gradients are divided by it as they are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossScale {
    /// Always the same.
    Fixed(f64),
    /// Grows and backs off on the GPU, as PyTorch's `GradScaler`.
    Dynamic(DynamicScale),
}

/// A loss scale that grows after steps without and falls after a step with non-finite gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DynamicScale {
    /// The first scale.
    pub init: f64,
    /// The factor after `growth_interval` steps without a non-finite gradient.
    pub growth_factor: f64,
    /// The factor after a step with one.
    pub backoff_factor: f64,
    /// Steps without one until the scale grows.
    pub growth_interval: u32,
}

impl Default for DynamicScale {
    fn default() -> Self {
        Self { init: 65536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

/// The loss scale of a state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SavedScale {
    pub scale: f64,
    /// Whether it is one that moves.
    pub is_dynamic: bool,
    /// Steps since it last moved.
    pub good_steps: u64,
}

impl LossScale {
    /// The first scale.
    pub(crate) fn initial(&self) -> f64 {
        match self {
            Self::Fixed(scale) => *scale,
            Self::Dynamic(dynamic) => dynamic.init,
        }
    }

    /// Whether the scale can be used.
    ///
    /// # Errors
    /// What is out of range, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        let require = |ok: bool, what: &str, value: f64| {
            if ok { Ok(()) } else { Err(OptionError::new("loss_scale", format!("{what}, got {value:?}"))) }
        };
        let Self::Dynamic(dynamic) = self else { return LOSS_SCALE.check("loss_scale", self.initial()) };
        let DynamicScale { init, growth_factor: growth, backoff_factor: backoff, growth_interval } = *dynamic;
        require(LOSS_SCALE.contains(init), "init must be from 2^-64 to 2^64", init)?;
        require(growth >= 1.0, "growth_factor must be at least 1", growth)?;
        require(growth <= f64::from(f32::MAX), "growth_factor must be finite", growth)?;
        require(backoff > 0.0 && backoff < 1.0, "backoff_factor must be above 0 and below 1", backoff)?;
        require(growth_interval > 0, "growth_interval must be at least 1", growth_interval.into())
    }

    /// The scale and the count of good steps after a step.
    pub(crate) fn next(&self, scale: f64, good_steps: u32, nonfinite: bool) -> (f64, u32) {
        let Self::Dynamic(dynamic) = self else { return (scale, good_steps) };
        let (scale, good_steps) = if nonfinite {
            (scale * dynamic.backoff_factor, 0)
        } else if good_steps.saturating_add(1) < dynamic.growth_interval {
            (scale, good_steps + 1)
        } else {
            (scale * dynamic.growth_factor, 0)
        };
        (scale.clamp(*RANGE.start(), *RANGE.end()), good_steps)
    }
}

impl OptionField for LossScale {
    const EXPECTED: &'static str =
        "a number, or a table with any of init, growth_factor, backoff_factor, growth_interval";
    fn from_value(value: &OptionValue) -> Option<Self> {
        let table = match value {
            OptionValue::Table(table) => table,
            other => return other.number().map(Self::Fixed),
        };
        let mut dynamic = DynamicScale::default();
        for (key, value) in table {
            match key.as_str() {
                "init" => dynamic.init = *value,
                "growth_factor" => dynamic.growth_factor = *value,
                "backoff_factor" => dynamic.backoff_factor = *value,
                "growth_interval" if value.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(value) => {
                    dynamic.growth_interval = *value as u32;
                }
                _ => return None,
            }
        }
        Some(Self::Dynamic(dynamic))
    }
    fn to_value(&self) -> Option<OptionValue> {
        Some(match self {
            Self::Fixed(scale) => OptionValue::Number(*scale),
            Self::Dynamic(dynamic) => OptionValue::Table(
                [
                    ("init", dynamic.init),
                    ("growth_factor", dynamic.growth_factor),
                    ("backoff_factor", dynamic.backoff_factor),
                    ("growth_interval", dynamic.growth_interval.into()),
                ]
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
            ),
        })
    }
}
