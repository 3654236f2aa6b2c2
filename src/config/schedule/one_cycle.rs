//! The one-cycle schedule.

use std::f64::consts::PI;
use std::ops::Bound::Included;

use super::{ABOVE_WARMUP, held};
use crate::options::range::{POSITIVE, Range};
use crate::options::{OptionError, words};

const SHARE: Range = Range::new(Included(0.0), Included(1.0), "from 0 to 1");

/// The shape between two rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anneal {
    /// Half a cosine.
    Cos,
    /// A line.
    Linear,
}

words!(Anneal: "\"cos\" or \"linear\"" { "cos" => Cos, "linear" => Linear });

crate::options! {
    /// Up to `max_lr` and down again far below the start (Smith & Topin 2018). PyTorch's `OneCycleLR`,
    /// momentum not cycled. The rate of `[optimizer]` only sets the ratio of the groups.
    pub struct OneCycle {
        /// Steps of the cycle, the warm-up included; the last rate is that of step `total_steps − 1`.
        pub total_steps: u64 = 0, in ABOVE_WARMUP,
        /// The rate at the top.
        pub max_lr: f64 = 0.0, in POSITIVE,
        /// The share of the steps that rise.
        pub pct_start: f64 = 0.3, in SHARE,
        /// The shape.
        pub anneal_strategy: Anneal = Anneal::Cos,
        /// The first rate is `max_lr / div_factor`.
        pub div_factor: f64 = 25.0, in POSITIVE,
        /// The last rate is the first over this.
        pub final_div_factor: f64 = 1e4, in POSITIVE,
        /// Come down to the first rate as fast as it rose, then to the last.
        pub three_phase: bool = false,
    }
}

impl OneCycle {
    /// Past the half, three phases would not fit.
    pub(super) fn check_phases(&self) -> Result<(), OptionError> {
        if self.three_phase && self.pct_start > 0.5 {
            return Err(OptionError::new("pct_start", format!("must be from 0 to 0.5, got {:?}", self.pct_start)));
        }
        Ok(())
    }

    /// The rate `t` steps into a cycle of `total`.
    pub(super) fn lr(&self, t: u64, total: u64) -> f64 {
        let (t, total) = (t.min(total.saturating_sub(1)) as f64, total as f64);
        // Divided by next to nothing they would be infinite, and their difference no number.
        let first = held(self.max_lr / self.div_factor);
        let last = held(first / self.final_div_factor);
        let rise = self.pct_start * total;
        let phases: &[(f64, f64, f64)] = if self.three_phase {
            &[(rise - 1.0, first, self.max_lr), (2.0 * rise - 2.0, self.max_lr, first), (total - 1.0, first, last)]
        } else {
            &[(rise - 1.0, first, self.max_lr), (total - 1.0, self.max_lr, last)]
        };
        let mut start = 0.0;
        for &(end, from, to) in phases {
            if t <= end {
                let share = if end > start { (t - start) / (end - start) } else { 1.0 };
                return match self.anneal_strategy {
                    Anneal::Cos => to + (from - to) / 2.0 * (1.0 + (PI * share).cos()),
                    Anneal::Linear => from + (to - from) * share,
                };
            }
            start = end;
        }
        last
    }
}
