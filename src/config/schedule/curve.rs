//! What each kind of schedule allows, and its curve.

use std::f64::consts::PI;

use super::{Kind, LARGEST_LR};
use crate::options::OptionError;

impl Kind {
    pub(super) fn check(&self, warmup_steps: u64) -> Result<(), OptionError> {
        // A total counts the warm-up, and something must be left after it.
        let total = match self {
            Self::Linear(k) => Some(k.total_steps),
            Self::Polynomial(k) => Some(k.total_steps),
            Self::Cosine(k) => Some(k.total_steps),
            Self::Geometric(k) => Some(k.total_steps),
            Self::OneCycle(k) => Some(k.total_steps),
            _ => None,
        };
        let least = warmup_steps.saturating_add(1);
        if let Some(total) = total.filter(|total| *total < least) {
            return Err(OptionError::new("total_steps", format!("must be at least {least}, got {total}")));
        }
        self.check_ranges()?;
        match self {
            Self::OneCycle(k) => k.check_phases(),
            _ => Ok(()),
        }
    }

    /// Whether it can start from a base rate.
    pub(super) fn check_lr(&self, lr: f64) -> Result<(), OptionError> {
        match self {
            Self::Geometric(_) | Self::OneCycle(_) if !(lr > 0.0 && lr <= LARGEST_LR) => {
                let problem = format!("must be a finite number above 0 with schedule {:?}, got {lr:?}", self.name());
                Err(OptionError::new("lr", problem))
            }
            _ => Ok(()),
        }
    }

    /// Steps after which it goes on as it has: to the end, or over a few of its parts.
    pub(super) fn steps(&self, warmup_steps: u64) -> u64 {
        match self {
            Self::Linear(k) => k.total_steps,
            Self::Polynomial(k) => k.total_steps,
            Self::Cosine(k) => k.total_steps,
            Self::Geometric(k) => k.total_steps,
            Self::OneCycle(k) => k.total_steps,
            Self::CosineRestarts(k) => warmup_steps.saturating_add(k.period),
            Self::Step(k) => warmup_steps.saturating_add(k.step_size),
            Self::MultiStep(k) => warmup_steps.saturating_add(k.milestones.last().copied().unwrap_or(0)),
            Self::Constant(_) | Self::Exponential(_) | Self::InverseTime(_) | Self::Plateau(_) => warmup_steps,
        }
    }

    /// The learning rate after `t` steps of this shape, its warm-up included.
    pub(super) fn lr(&self, warmup_steps: u64, t: u64, lr: f64) -> f64 {
        if t < warmup_steps {
            return lr * (t + 1) as f64 / warmup_steps as f64;
        }
        let t = t - warmup_steps;
        // The share of the way to the end that is behind us; after the end the last value holds.
        let way = |total: u64| {
            let total = total.saturating_sub(warmup_steps).max(1);
            t.min(total) as f64 / total as f64
        };
        let half_cosine = |share: f64, min: f64| min + (lr - min) * (1.0 + (PI * share).cos()) / 2.0;
        match self {
            Self::Constant(_) => lr,
            Self::Step(k) => lr * k.gamma.powf((t / k.step_size.max(1)) as f64),
            Self::MultiStep(k) => {
                // They rise.
                let passed = k.milestones.partition_point(|m| *m <= t);
                lr * k.gamma.powf(passed as f64)
            }
            Self::Exponential(k) => lr * k.gamma.powf(t as f64),
            Self::InverseTime(k) => lr / (1.0 + k.decay * t as f64),
            Self::Linear(k) => lr * (1.0 + (k.end_factor - 1.0) * way(k.total_steps)),
            Self::Polynomial(k) => lr * (1.0 - way(k.total_steps)).powf(k.power),
            Self::Cosine(k) => half_cosine(way(k.total_steps), k.min_lr),
            Self::CosineRestarts(k) => {
                let (into, length) = restart_at(t, k.period.max(1), k.multiplier.max(1));
                half_cosine(into as f64 / length as f64, k.min_lr)
            }
            Self::Geometric(k) => lr * (k.min_lr / lr).powf(way(k.total_steps)),
            Self::OneCycle(k) => k.lr(t, k.total_steps.saturating_sub(warmup_steps)),
            // Its falls come from the caller's reports, not from the count.
            Self::Plateau(_) => lr,
        }
    }
}

/// How far `t` is into its period, and how long that period is.
fn restart_at(mut t: u64, mut period: u64, multiplier: u64) -> (u64, u64) {
    if multiplier == 1 {
        return (t % period, period);
    }
    while t >= period {
        t -= period;
        period = period.saturating_mul(multiplier);
    }
    (t, period)
}
