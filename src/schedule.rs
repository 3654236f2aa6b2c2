//! The learning rate as a function of the steps taken.

mod one_cycle;
mod plateau;

use std::f64::consts::PI;

pub use one_cycle::{Anneal, OneCycle};
pub use plateau::{Mode, Plateau, PlateauState, ThresholdMode};

use crate::options::{OptionError, OptionValue, Options, check, unknown_key};

/// How the learning rate develops. `t` counts the steps taken so far, from 0; the rate that results
/// is that of `[optimizer].lr`, and every group's rate is multiplied by its ratio to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: Kind,
    /// Steps of linear warm-up, `lr·(t+1)/warmup_steps`, before the kind starts from its own t = 0.
    pub warmup_steps: u64,
    /// What follows it.
    pub then: Option<Box<Then>>,
}

/// A schedule that takes over from another, as in PyTorch's `SequentialLR`.
#[derive(Debug, Clone, PartialEq)]
pub struct Then {
    /// Steps of the one before, its warm-up included.
    pub after: u64,
    /// The one that follows, from its own t = 0.
    pub schedule: Schedule,
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $variant:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty = $default:expr,)* })*) => {
        $(crate::options! {
            $(#[$meta])*
            pub struct $variant { $($(#[$field_meta])* pub $field: $ty = $default,)* }
        })*
    };
}

/// Declares the list of kinds.
macro_rules! list {
    ($($variant:ident $name:literal,)*) => {
        /// The shape of a [`Schedule`].
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "`")] $variant($variant),)*
        }

        impl Kind {
            /// The names that configurations use.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The kind of that name with nothing set.
            pub fn by_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant($variant::default())),)*
                    _ => None,
                }
            }

            /// Its name in configurations.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            fn as_options(&mut self) -> &mut dyn Options {
                match self { $(Self::$variant(options) => options,)* }
            }

            /// Its options with their present values.
            pub(crate) fn options(&self) -> Vec<(&'static str, Option<OptionValue>)> {
                match self { $(Self::$variant(options) => options.options(),)* }
            }
        }

        $(impl From<$variant> for Schedule {
            fn from(kind: $variant) -> Self {
                Self { kind: Kind::$variant(kind), warmup_steps: 0, then: None }
            }
        })*
    };
}

kinds! {
    /// The rate never changes.
    Constant {}
    /// Times `gamma` every `step_size` steps.
    Step {
        /// Steps between two falls.
        step_size: u64 = 0,
        /// The factor of a fall.
        gamma: f64 = 0.1,
    }
    /// Times `gamma` at each of the `milestones`.
    MultiStep {
        /// Steps at which the rate falls, rising.
        milestones: Vec<u64> = Vec::new(),
        /// The factor of a fall.
        gamma: f64 = 0.1,
    }
    /// `lr·gammaᵗ`.
    Exponential {
        /// The factor of each step.
        gamma: f64 = 0.0,
    }
    /// `lr / (1 + decay·t)`.
    InverseTime {
        /// How fast it falls.
        decay: f64 = 0.0,
    }
    /// From `lr` to `lr·end_factor` in a line.
    Linear {
        /// Steps until the end, the warm-up included.
        total_steps: u64 = 0,
        /// The factor at the end.
        end_factor: f64 = 0.0,
    }
    /// `lr·(1 − t/total)^power`.
    Polynomial {
        /// Steps until the end, the warm-up included.
        total_steps: u64 = 0,
        /// The exponent.
        power: f64 = 1.0,
    }
    /// Half a cosine from `lr` to `min_lr` (Loshchilov & Hutter 2017).
    Cosine {
        /// Steps until the end, the warm-up included.
        total_steps: u64 = 0,
        /// The rate at the end.
        min_lr: f64 = 0.0,
    }
    /// Half cosines from `lr` to `min_lr`, each `multiplier` times as long as the last (SGDR,
    /// Loshchilov & Hutter 2017).
    CosineRestarts {
        /// Steps of the first.
        period: u64 = 0,
        /// Growth of the period.
        multiplier: u64 = 1,
        /// The rate at the end of each.
        min_lr: f64 = 0.0,
    }
    /// `lr·(min_lr/lr)^(t/total)`: a constant factor between two rates.
    Geometric {
        /// Steps until the end, the warm-up included.
        total_steps: u64 = 0,
        /// The rate at the end.
        min_lr: f64 = 0.0,
    }
}

list! {
    Constant "constant",
    Step "step",
    MultiStep "multi_step",
    Exponential "exponential",
    InverseTime "inverse_time",
    Linear "linear",
    Polynomial "polynomial",
    Cosine "cosine",
    CosineRestarts "cosine_restarts",
    Geometric "geometric",
    OneCycle "one_cycle",
    Plateau "plateau",
}

impl Default for Schedule {
    fn default() -> Self {
        Constant {}.into()
    }
}

impl Schedule {
    /// The same schedule after a linear warm-up of `steps`.
    pub fn with_warmup(mut self, steps: u64) -> Self {
        self.warmup_steps = steps;
        self
    }

    /// The same schedule, with another that takes over after so many steps of the last so far.
    pub fn then(mut self, after: u64, next: impl Into<Schedule>) -> Self {
        let next = match self.then.take() {
            Some(then) => Then { after: then.after, schedule: then.schedule.then(after, next) },
            None => Then { after, schedule: next.into() },
        };
        self.then = Some(Box::new(next));
        self
    }

    /// Sets one option of the kind, or `warmup_steps`.
    ///
    /// # Errors
    /// The key is unknown to this kind, or the value has the wrong type.
    pub fn set_option(&mut self, key: &str, value: &OptionValue) -> Result<(), OptionError> {
        if key == "warmup_steps" {
            self.warmup_steps = crate::options::OptionField::from_value(value)
                .ok_or_else(|| OptionError::new(key, format!("expected a whole number, at least 0, got {value}")))?;
            return Ok(());
        }
        let known = self.keys();
        if !known.contains(&key) {
            return Err(OptionError::new(key, unknown_key(&known)));
        }
        self.kind.as_options().set_option(key, value)
    }

    /// What [`Schedule::set_option`] takes.
    pub(crate) fn keys(&mut self) -> Vec<&'static str> {
        let options = self.kind.as_options().options();
        options.into_iter().map(|(name, _)| name).chain(["warmup_steps"]).collect()
    }

    /// Whether every option can be used with a base rate of `lr`.
    ///
    /// # Errors
    /// The first that cannot, and what is allowed.
    pub fn check(&self, lr: f64) -> Result<(), OptionError> {
        self.check_kind(lr)?;
        let (mut before, mut number) = (self, 0);
        while let Some(then) = &before.then {
            let plateau = |schedule: &Self| matches!(schedule.kind, Kind::Plateau(_));
            if plateau(before) || plateau(&then.schedule) {
                return Err(OptionError::new("then", "\"plateau\" goes by the losses reported, and stands alone"));
            }
            let key = |key: &str| format!("then[{number}].{key}");
            if then.after == 0 {
                return Err(OptionError::new(&key("after"), "must be at least 1, got 0"));
            }
            then.schedule.check_kind(lr).map_err(|e| OptionError::new(&key(&e.key), e.problem))?;
            (before, number) = (&then.schedule, number + 1);
        }
        Ok(())
    }

    fn check_kind(&self, lr: f64) -> Result<(), OptionError> {
        let at_least = |key: &str, value: u64, least: u64| {
            if value >= least {
                Ok(())
            } else {
                Err(OptionError::new(key, format!("must be at least {least}, got {value}")))
            }
        };
        // A total counts the warm-up, and something must be left after it.
        let total = |steps: u64| at_least("total_steps", steps, self.warmup_steps.saturating_add(1));
        match &self.kind {
            Kind::Constant(_) => Ok(()),
            Kind::Step(k) => {
                at_least("step_size", k.step_size, 1)?;
                check::non_negative("gamma", k.gamma)
            }
            Kind::MultiStep(k) => {
                if k.milestones.is_empty() || !k.milestones.is_sorted() {
                    return Err(OptionError::new("milestones", "must be a rising list of steps"));
                }
                check::non_negative("gamma", k.gamma)
            }
            Kind::Exponential(k) => check::positive("gamma", k.gamma),
            Kind::InverseTime(k) => check::non_negative("decay", k.decay),
            Kind::Linear(k) => {
                total(k.total_steps)?;
                check::non_negative("end_factor", k.end_factor)
            }
            Kind::Polynomial(k) => {
                total(k.total_steps)?;
                check::non_negative("power", k.power)
            }
            Kind::Cosine(k) => {
                total(k.total_steps)?;
                check::non_negative("min_lr", k.min_lr)
            }
            Kind::CosineRestarts(k) => {
                at_least("period", k.period, 1)?;
                at_least("multiplier", k.multiplier, 1)?;
                check::non_negative("min_lr", k.min_lr)
            }
            Kind::Geometric(k) => {
                total(k.total_steps)?;
                check::positive("min_lr", k.min_lr)?;
                check::positive("lr", lr)
            }
            Kind::OneCycle(k) => {
                total(k.total_steps)?;
                check::positive("lr", lr)?;
                k.check()
            }
            Kind::Plateau(k) => k.check(),
        }
    }

    /// The learning rate of the step that follows `t` steps taken, for a base rate of `lr`.
    pub fn lr(&self, t: u64, lr: f64) -> f64 {
        if let Some(then) = self.then.as_ref().filter(|then| t >= then.after) {
            return then.schedule.lr(t - then.after, lr);
        }
        if t < self.warmup_steps {
            return lr * (t + 1) as f64 / self.warmup_steps as f64;
        }
        let t = t - self.warmup_steps;
        // The share of the way to the end that is behind us; after the end the last value holds.
        let way = |total: u64| {
            let total = total.saturating_sub(self.warmup_steps).max(1);
            t.min(total) as f64 / total as f64
        };
        let half_cosine = |share: f64, min: f64| min + (lr - min) * (1.0 + (PI * share).cos()) / 2.0;
        match &self.kind {
            Kind::Constant(_) => lr,
            Kind::Step(k) => lr * k.gamma.powf((t / k.step_size.max(1)) as f64),
            Kind::MultiStep(k) => {
                let passed = k.milestones.iter().filter(|m| **m <= t).count();
                lr * k.gamma.powf(passed as f64)
            }
            Kind::Exponential(k) => lr * k.gamma.powf(t as f64),
            Kind::InverseTime(k) => lr / (1.0 + k.decay * t as f64),
            Kind::Linear(k) => lr * (1.0 + (k.end_factor - 1.0) * way(k.total_steps)),
            Kind::Polynomial(k) => lr * (1.0 - way(k.total_steps)).powf(k.power),
            Kind::Cosine(k) => half_cosine(way(k.total_steps), k.min_lr),
            Kind::CosineRestarts(k) => {
                let (into, length) = restart_at(t, k.period.max(1), k.multiplier.max(1));
                half_cosine(into as f64 / length as f64, k.min_lr)
            }
            Kind::Geometric(k) => lr * (k.min_lr / lr).powf(way(k.total_steps)),
            Kind::OneCycle(k) => k.lr(t, k.total_steps.saturating_sub(self.warmup_steps)),
            // Its falls come from the caller's reports, not from the count.
            Kind::Plateau(_) => lr,
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
