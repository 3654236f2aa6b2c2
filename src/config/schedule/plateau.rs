//! The schedule that reacts to the loss.

use crate::options::range::{FRACTION, NON_NEGATIVE};
use crate::options::words;

/// Whether a lower or a higher figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lower is better: a loss.
    Min,
    /// Higher is better: an accuracy.
    Max,
}

/// What the threshold of an improvement is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThresholdMode {
    /// A share of the best figure.
    Rel,
    /// An amount.
    Abs,
}

words!(Mode: "\"min\" or \"max\"" { "min" => Min, "max" => Max });
words!(ThresholdMode: "\"rel\" or \"abs\"" { "rel" => Rel, "abs" => Abs });

crate::options! {
    /// The rate falls by `factor` when the figure that the caller reports has not improved for more
    /// than `patience` reports. PyTorch's `ReduceLROnPlateau`.
    pub struct Plateau {
        /// Whether a lower or a higher figure is better.
        pub mode: Mode = Mode::Min,
        /// The factor of a fall.
        pub factor: f64 = 0.1, in FRACTION,
        /// Reports without an improvement that are borne.
        pub patience: u64 = 10,
        /// What counts as an improvement.
        pub threshold: f64 = 1e-4, in NON_NEGATIVE,
        /// What the threshold is relative to.
        pub threshold_mode: ThresholdMode = ThresholdMode::Rel,
        /// Reports after a fall that are not counted.
        pub cooldown: u64 = 0,
        /// The rate never falls below this.
        pub min_lr: f64 = 0.0, in NON_NEGATIVE,
        /// Falls smaller than this are left out.
        pub eps: f64 = 1e-8, in NON_NEGATIVE,
    }
}

impl Plateau {
    /// What is left of a base rate of `lr`, above 0, after falls that left that share of it: reports never take it
    /// below `min_lr`, also where another base rate was set since. One that was set below stays there.
    pub(crate) fn share(&self, left: f64, lr: f64) -> f64 {
        left.max((self.min_lr / lr).min(1.0))
    }

    fn improves(&self, figure: f64, best: Option<f64>) -> bool {
        // NaN never improves. Before there is a best, all is better than the worst, an infinity too.
        let Some(best) = best else {
            return match self.mode {
                Mode::Min => figure < f64::INFINITY,
                Mode::Max => figure > f64::NEG_INFINITY,
            };
        };
        match (self.mode, self.threshold_mode) {
            (Mode::Min, ThresholdMode::Rel) => figure < best * (1.0 - self.threshold),
            (Mode::Min, ThresholdMode::Abs) => figure < best - self.threshold,
            (Mode::Max, ThresholdMode::Rel) => figure > best * (self.threshold + 1.0),
            (Mode::Max, ThresholdMode::Abs) => figure > best + self.threshold,
        }
    }
}

/// What a [`Plateau`] remembers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlateauState {
    /// The present rate, as a share of the base rate, `min_lr` apart.
    pub factor: f64,
    /// The best figure so far, which may be infinite; `None` before the first.
    pub best: Option<f64>,
    /// Reports since the last improvement.
    pub bad_reports: u64,
    /// Reports still not counted.
    pub cooldown: u64,
}

impl Default for PlateauState {
    fn default() -> Self {
        Self { factor: 1.0, best: None, bad_reports: 0, cooldown: 0 }
    }
}

impl PlateauState {
    /// Takes in a figure, for a base rate of `lr`.
    pub fn report(&mut self, plateau: &Plateau, figure: f64, lr: f64) {
        if plateau.improves(figure, self.best) {
            self.best = Some(figure);
            self.bad_reports = 0;
        } else {
            self.bad_reports = self.bad_reports.saturating_add(1);
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.bad_reports = 0;
        }
        if self.bad_reports > plateau.patience {
            let old = plateau.share(self.factor, lr) * lr;
            let new = (old * plateau.factor).max(plateau.min_lr);
            if old - new > plateau.eps {
                self.factor = new / lr;
            }
            self.cooldown = plateau.cooldown;
            self.bad_reports = 0;
        }
    }
}
