//! Moving average of the weights.

use std::ops::Bound::Included;

use crate::options::range::{RATE, Range};
use crate::options::{OptionError, Options as _};

/// Kernels count in words with a sign.
const INTERVAL: Range =
    Range::new(Included(1.0), Included(i32::MAX as f64), "from 1 to 2147483647").told("from 1 to 2^31 - 1");

crate::options! {
    /// Moving average of the weights, the `[ema]` table: `a ← d·a + (1−d)·p` after a step, from the
    /// first weights that it sees.
    pub struct EmaConfig {
        /// d, the share of the old average that stays.
        pub decay: f64 = 0.999, in RATE,
        /// Start with a shorter memory: d is at most (1+n)/(10+n) at the n-th averaging.
        pub warmup: bool = false,
        /// Steps from one averaging to the next.
        pub interval: u64 = 1, in INTERVAL,
    }
}

impl EmaConfig {
    /// Whether every option can be used.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        self.check_ranges()
    }

    /// What is wrong where steps were averaged at another interval. Averagings are told by the count of steps: at
    /// another interval the first could come a second time, and the average so far be lost.
    pub(crate) fn problem_after(&self, interval: Option<u64>, steps_taken: u64) -> Option<String> {
        let other = interval.filter(|other| *other != self.interval && steps_taken > 0)?;
        let own = self.interval;
        Some(format!(
            "ema.interval: the weights were averaged every {other} steps, and cannot be every {own} from now on"
        ))
    }

    /// What is kept of the average after the `step`-th step; 1 leaves it alone.
    pub(crate) fn kept(&self, step: u64) -> f64 {
        if !step.is_multiple_of(self.interval) {
            return 1.0;
        }
        let n = step / self.interval;
        match n {
            1 => 0.0,
            _ if self.warmup => self.decay.min((1.0 + n as f64) / (10.0 + n as f64)),
            _ => self.decay,
        }
    }
}
