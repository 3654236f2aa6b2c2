//! The learning rate as a function of the steps taken.

mod curve;
mod one_cycle;
mod plateau;

pub use one_cycle::{Anneal, OneCycle};
pub use plateau::{Mode, Plateau, PlateauState, ThresholdMode};

use std::ops::Bound::{Included, Unbounded};

use crate::options::range::{AT_LEAST_ONE, Declaration, NON_NEGATIVE, POSITIVE, RISING, Range};
use crate::options::{OptionError, OptionValue, Options, unknown_key};

/// Something must be left after the warm-up, which [`Kind::check`] knows.
const ABOVE_WARMUP: Range = Range::new(Included(1.0), Unbounded, "above warmup_steps").told("at least 1");

/// The largest rate there is: the largest number of f32, in which the kernels multiply.
pub const LARGEST_LR: f64 = f32::MAX as f64;

/// A rate that passed f32 on its way stays at [`LARGEST_LR`]: infinite, it would make NaN of every parameter whose
/// direction is 0.
pub(crate) fn held(rate: f64) -> f64 {
    if rate > LARGEST_LR { LARGEST_LR } else { rate }
}

/// How the learning rate develops. `t` counts the steps taken so far, from 0; the rate that results
/// is that of `[optimizer].lr`, and every group's rate is multiplied by its ratio to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: Kind,
    /// Steps of linear warm-up, `lr·(t+1)/warmup_steps`, before the kind starts from its own t = 0.
    pub warmup_steps: u64,
    /// What follows it, one after the other. A list, not a chain: however long, nothing recurses over it.
    pub then: Vec<Then>,
}

/// What takes over from the shape before, as in PyTorch's `SequentialLR`.
#[derive(Debug, Clone, PartialEq)]
pub struct Then {
    /// Steps of the one before, its warm-up included.
    pub after: u64,
    /// The shape that follows, from its own t = 0.
    pub kind: Kind,
    /// Steps of its warm-up.
    pub warmup_steps: u64,
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $variant:ident { $($(#[$field_meta:meta])* pub $field:ident: $ty:ty = $default:expr, $(in $range:expr,)?)* })*) => {
        $(crate::options! {
            $(#[$meta])*
            pub struct $variant { $($(#[$field_meta])* pub $field: $ty = $default, $(in $range,)?)* }
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
            pub fn options(&self) -> Vec<(&'static str, Option<OptionValue>)> {
                match self { $(Self::$variant(options) => options.options(),)* }
            }

            /// Its options as they are declared.
            pub fn declarations(&self) -> Vec<Declaration> {
                match self { $(Self::$variant(options) => options.declarations(),)* }
            }

            fn check_ranges(&self) -> Result<(), OptionError> {
                match self { $(Self::$variant(options) => options.check_ranges(),)* }
            }
        }

        $(impl From<$variant> for Schedule {
            fn from(kind: $variant) -> Self {
                Self { kind: Kind::$variant(kind), warmup_steps: 0, then: Vec::new() }
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
        pub step_size: u64 = 0, in AT_LEAST_ONE,
        /// The factor of a fall.
        pub gamma: f64 = 0.1, in NON_NEGATIVE,
    }
    /// Times `gamma` at each of the `milestones`.
    MultiStep {
        /// Steps at which the rate falls, rising.
        pub milestones: Vec<u64> = Vec::new(), in RISING,
        /// The factor of a fall.
        pub gamma: f64 = 0.1, in NON_NEGATIVE,
    }
    /// `lr·gammaᵗ`.
    Exponential {
        /// The factor of each step.
        pub gamma: f64 = 0.0, in POSITIVE,
    }
    /// `lr / (1 + decay·t)`.
    InverseTime {
        /// How fast it falls.
        pub decay: f64 = 0.0, in NON_NEGATIVE,
    }
    /// From `lr` to `lr·end_factor` in a line.
    Linear {
        /// Steps until the end, the warm-up included.
        pub total_steps: u64 = 0, in ABOVE_WARMUP,
        /// The factor at the end.
        pub end_factor: f64 = 0.0, in NON_NEGATIVE,
    }
    /// `lr·(1 − t/total)^power`.
    Polynomial {
        /// Steps until the end, the warm-up included.
        pub total_steps: u64 = 0, in ABOVE_WARMUP,
        /// The exponent.
        pub power: f64 = 1.0, in NON_NEGATIVE,
    }
    /// Half a cosine from `lr` to `min_lr` (Loshchilov & Hutter 2017).
    Cosine {
        /// Steps until the end, the warm-up included.
        pub total_steps: u64 = 0, in ABOVE_WARMUP,
        /// The rate at the end.
        pub min_lr: f64 = 0.0, in NON_NEGATIVE,
    }
    /// Half cosines from `lr` to `min_lr`, each `multiplier` times as long as the last (SGDR,
    /// Loshchilov & Hutter 2017).
    CosineRestarts {
        /// Steps of the first.
        pub period: u64 = 0, in AT_LEAST_ONE,
        /// Growth of the period.
        pub multiplier: u64 = 1, in AT_LEAST_ONE,
        /// The rate at the end of each.
        pub min_lr: f64 = 0.0, in NON_NEGATIVE,
    }
    /// `lr·(min_lr/lr)^(t/total)`: a constant factor between two rates.
    Geometric {
        /// Steps until the end, the warm-up included.
        pub total_steps: u64 = 0, in ABOVE_WARMUP,
        /// The rate at the end.
        pub min_lr: f64 = 0.0, in POSITIVE,
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

    /// The same schedule, with another that takes over after so many steps of the last so far, and whatever follows it.
    pub fn then(mut self, after: u64, next: impl Into<Schedule>) -> Self {
        let Schedule { kind, warmup_steps, then } = next.into();
        self.then.push(Then { after, kind, warmup_steps });
        self.then.extend(then);
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
        self.check_options()?;
        self.check_lr(lr)
    }

    pub(crate) fn check_options(&self) -> Result<(), OptionError> {
        self.kind.check(self.warmup_steps)?;
        let watches = |kind: &Kind| matches!(kind, Kind::Plateau(_));
        if !self.then.is_empty() && self.pieces().any(watches) {
            return Err(OptionError::new("then", "\"plateau\" goes by the losses reported, and stands alone"));
        }
        for (number, then) in self.then.iter().enumerate() {
            let key = |key: &str| format!("then[{number}].{key}");
            if then.after == 0 {
                return Err(OptionError::new(&key("after"), "must be at least 1, got 0"));
            }
            let checked = then.kind.check(then.warmup_steps);
            checked.map_err(|e| OptionError::new(&key(&e.key), e.problem))?;
        }
        Ok(())
    }

    /// [`Schedule::check`], with the tables that the schedule and the rate that it starts from stand in.
    pub(crate) fn check_tables(&self, table: &str, lr_table: &str, lr: f64) -> crate::error::Result<()> {
        self.check_options().map_err(|e| e.within(table))?;
        self.check_lr(lr).map_err(|e| e.within(lr_table))
    }

    /// Whether it can start from a rate.
    pub(crate) fn check_lr(&self, lr: f64) -> Result<(), OptionError> {
        self.pieces().try_for_each(|kind| kind.check_lr(lr))
    }

    /// Steps among which it takes its extreme values: where pieces and their parts begin and end, some between, and far on.
    pub(crate) fn corners(&self) -> Vec<u64> {
        const BETWEEN: u64 = 64;
        let mut all = vec![0, 1 << 20, 1 << 31];
        let mut start = 0u64;
        let mut piece = |start: u64, kind: &Kind, warmup: u64, end: Option<u64>| {
            let last = end.unwrap_or_else(|| kind.steps(warmup));
            let inside = (0..=BETWEEN).map(|i| (last as u128 * i as u128 / BETWEEN as u128) as u64);
            let near = [warmup.saturating_sub(1), warmup, warmup + 1, last.saturating_sub(1)];
            let allowed = near.into_iter().chain(inside).filter(|t| *t <= last || end.is_none());
            all.extend(allowed.map(|t| start.saturating_add(t)));
        };
        let ends = self.then.iter().map(|then| Some(then.after.saturating_sub(1))).chain([None]);
        let firsts = std::iter::once((&self.kind, self.warmup_steps));
        let pieces = firsts.chain(self.then.iter().map(|then| (&then.kind, then.warmup_steps)));
        for ((kind, warmup), end) in pieces.zip(ends) {
            piece(start, kind, warmup, end);
            start = start.saturating_add(end.map_or(0, |end| end + 1));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether the base rate can be set while it runs: `one_cycle` has rates of its own.
    pub(crate) fn check_set_lr(&self) -> Result<(), OptionError> {
        if self.pieces().any(|kind| !matches!(kind, Kind::OneCycle(_))) {
            return Ok(());
        }
        let problem = "cannot be set with schedule \"one_cycle\", whose rates are its own (max_lr); a group's can, and \
                       with it its ratio to them";
        Err(OptionError::new("lr", problem))
    }

    /// Whether the rate is ever another than the base rate.
    pub(crate) fn changes_rates(&self) -> bool {
        let warms_up = self.warmup_steps > 0 || self.then.iter().any(|then| then.warmup_steps > 0);
        warms_up || self.pieces().any(|kind| !matches!(kind, Kind::Constant(_)))
    }

    /// The shapes, one after the other.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Kind> {
        std::iter::once(&self.kind).chain(self.then.iter().map(|then| &then.kind))
    }

    /// The learning rate of the step that follows `t` steps taken, for a base rate of `lr`; at most [`LARGEST_LR`].
    pub fn lr(&self, t: u64, lr: f64) -> f64 {
        let (kind, warmup_steps, t) = self.piece_at(t);
        held(kind.lr(warmup_steps, t, lr))
    }

    /// [`Schedule::lr`] over `lr`, which may be far above [`LARGEST_LR`]. Whoever asks for many steps finds their shapes in
    /// the schedule's own [`Starts`].
    pub(crate) fn factor(&self, starts: &Starts, t: u64, lr: f64) -> f64 {
        let (kind, warmup_steps, t) = match starts.0.partition_point(|start| *start <= t).checked_sub(1) {
            Some(number) => (&self.then[number].kind, self.then[number].warmup_steps, t - starts.0[number]),
            None => (&self.kind, self.warmup_steps, t),
        };
        kind.lr(warmup_steps, t, lr) / lr
    }

    /// The shape that holds after `t` steps, its warm-up, and the steps of its own.
    fn piece_at(&self, mut t: u64) -> (&Kind, u64, u64) {
        let (mut kind, mut warmup_steps) = (&self.kind, self.warmup_steps);
        for then in &self.then {
            if t < then.after {
                break;
            }
            t -= then.after;
            (kind, warmup_steps) = (&then.kind, then.warmup_steps);
        }
        (kind, warmup_steps, t)
    }
}

/// After how many steps each of the shapes that follow begins, as far as steps can be counted: what a schedule of many is
/// searched by, once for each step of a window.
#[derive(Debug, Clone)]
pub(crate) struct Starts(Vec<u64>);

impl Starts {
    pub(crate) fn of(schedule: &Schedule) -> Self {
        let next = |start: &mut u64, then: &Then| {
            *start = start.checked_add(then.after)?;
            Some(*start)
        };
        Self(schedule.then.iter().scan(0, next).collect())
    }
}
