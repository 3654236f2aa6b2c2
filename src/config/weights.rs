//! Limits that the parameters themselves must keep.

use crate::options::range::DIVISOR;
use crate::options::{OptionError, Options as _};

crate::options! {
    /// Weight limits, the `[weights]` table, applied after each step in this order.
    pub struct WeightsConfig {
        /// Each element is kept within ±this.
        pub clip_value: Option<f64> = None, in DIVISOR,
        /// Each tensor is scaled so that its largest magnitude is at most this.
        pub max_abs: Option<f64> = None, in DIVISOR,
        /// Each tensor is scaled so that its norm is at most this.
        pub max_norm: Option<f64> = None, in DIVISOR,
    }
}

impl WeightsConfig {
    /// Whether every option can be used.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        self.check_ranges()?;
        if self.max_abs.is_some() && self.max_norm.is_some() {
            return Err(OptionError::new("max_norm", "only one of max_abs and max_norm may be given"));
        }
        Ok(())
    }

    /// The limit that scales whole tensors, if one is given.
    pub fn tensor_limit(&self) -> Option<f64> {
        self.max_abs.or(self.max_norm)
    }

    /// The factor of a tensor with that norm and largest magnitude.
    pub(crate) fn factor(&self, norm: f64, largest: f64) -> f64 {
        let keep = |size: f64, limit: f64| if size <= limit { 1.0 } else { limit / size };
        match (self.max_abs, self.max_norm) {
            (Some(limit), _) => keep(largest, limit),
            (None, Some(limit)) => keep(norm, limit),
            (None, None) => 1.0,
        }
    }
}
