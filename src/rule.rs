//! What an update rule is: options, state slots, scalars of a step, WGSL maths and its CPU twin.
//!
//! A rule gives a direction `u`. The engine does the rest, once for all rules: it conditions the
//! gradient, adds coupled weight decay to it, and applies `p ← p − lr·u − lr·λ·p`.

mod declare;
pub(crate) mod float;
pub(crate) mod hyper;
pub(crate) mod kernel;
pub mod maths;
pub(crate) mod normal;
pub mod prelude;
pub(crate) mod twin;

pub use float::Float;
pub use hyper::{HyperRow, MAX_SCALARS, Scalars};
pub use kernel::CpuFloat;
use kernel::CpuKernel;
pub use twin::{Element, MAX_SLOTS, Norms, Twin};

use crate::options::{OptionError, Options};

/// One value of state for each element of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// PyTorch's name for it: `exp_avg`.
    pub name: &'static str,
    /// The value before the first step.
    pub initial: f64,
    /// The value in rows that join a tensor later.
    pub in_new_rows: f64,
    /// Whether values can be below zero, which compressed storage must know.
    pub signed: bool,
    /// Whether it may be stored in fewer than 32 bits.
    pub compressible: bool,
    /// Whether the rule's options need it. A slot that is off takes no memory and reads as zero.
    pub active: bool,
    /// Whether the engine keeps it, see [`Slot::mean_square`].
    pub mean_square: bool,
}

impl Slot {
    /// An active slot that starts at zero and takes both signs.
    pub const fn signed(name: &'static str) -> Self {
        Self { signed: true, ..Self::unsigned(name) }
    }

    /// An active slot that starts at zero and is never negative.
    pub const fn unsigned(name: &'static str) -> Self {
        Self {
            name,
            initial: 0.0,
            in_new_rows: 0.0,
            signed: false,
            compressible: true,
            active: true,
            mean_square: false,
        }
    }

    /// The moving average of g², kept by the engine and read by the rule with this step's gradient in it.
    /// What it keeps of the average before is the rule's first scalar, its weight the second. Of a tensor with two
    /// dimensions and more only the averages over rows and columns are kept, in slots `row_var` and `col_var`, and the
    /// rule reads their outer product over the mean of the rows, which is at least the rule's third scalar (Shazeer &
    /// Stern 2018). A rule has at most one.
    pub const fn mean_square(name: &'static str) -> Self {
        Self { mean_square: true, ..Self::unsigned(name) }
    }

    /// The same slot, in f32 whatever the storage, NaN in rows that join a tensor later: the rule takes the weights
    /// in its place there, which the caller gives those rows after they have joined.
    pub const fn follows_weights(mut self) -> Self {
        self.in_new_rows = f64::NAN;
        self.exact()
    }

    /// The same slot with another value in rows that join a tensor later.
    pub const fn in_new_rows_at(mut self, value: f64) -> Self {
        self.in_new_rows = value;
        self
    }

    /// The same slot, in f32 whatever the storage: for what must not be off by a percent.
    pub const fn exact(mut self) -> Self {
        self.compressible = false;
        self
    }

    /// The same slot, kept only if `active`.
    pub const fn active_if(mut self, active: bool) -> Self {
        self.active = active;
        self
    }

    /// The same slot with another value before the first step.
    pub const fn starting_at(mut self, initial: f64) -> Self {
        self.initial = initial;
        self.in_new_rows = initial;
        self
    }
}

/// How a rule wants its weight decay λ applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// λ·p is added to the gradient before the rule sees it (L2 regularisation).
    Coupled(f64),
    /// p shrinks by lr·λ·p beside the rule's step (Loshchilov & Hutter 2019).
    Decoupled(f64),
    /// λ·p is added to the direction, and so to the norm that [`Reduction::UpdateNorm`] compares and to
    /// the step that [`Reduction::Average`] averages.
    InRatio(f64),
}

impl Decay {
    /// λ.
    pub fn lambda(self) -> f64 {
        match self {
            Self::Coupled(lambda) | Self::Decoupled(lambda) | Self::InRatio(lambda) => lambda,
        }
    }

    /// The same kind of decay with another λ.
    pub fn with_lambda(self, lambda: f64) -> Self {
        match self {
            Self::Coupled(_) => Self::Coupled(lambda),
            Self::Decoupled(_) => Self::Decoupled(lambda),
            Self::InRatio(_) => Self::InRatio(lambda),
        }
    }
}

/// What a rule needs to know of its own update before it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reduction {
    /// Nothing: each element stands for itself.
    None,
    /// The norms of a tensor's parameters and of its update, from which the rule makes a ratio that
    /// multiplies the step. The update is computed twice, so the pass that measures it costs the
    /// update's reads once more.
    UpdateNorm,
    /// The share of this step's iterate in the weighted average of all, γ² / Σγ², where γ is the learning
    /// rate times the rule's first scalar. The engine keeps Σγ² by tensor, on the device.
    Average,
}

/// An update rule, as configuration, layout and shader composition see it.
///
/// A rule of your own has a struct declared by [`options!`](crate::options!), this by [`rule!`](crate::rule!), and a
/// [`Twin`](crate::rule::twin::Twin) that it writes itself.
pub trait Rule: Options + CpuKernel + std::fmt::Debug + Send + Sync {
    /// The rule's name, as configurations spell it.
    fn name(&self) -> &'static str;

    /// The paper or the definition that the rule follows.
    fn reference(&self) -> &'static str;

    /// The learning rate among its options.
    fn lr(&self) -> f64;

    /// Whether the learning rate multiplies the direction. Rprop's steps have their own sizes.
    fn scaled_by_lr(&self) -> bool {
        true
    }

    /// Whether its maths stays finite in f32 for any finite gradient, for want of squares and products of gradients.
    /// Else, by default, it sees them, decay included, held at ±[2^60](crate::rule::maths::LARGEST_SEEN), after all clipping:
    /// squares, also of differences and with factors below 256, are then finite. A rule that takes any gradient gets the
    /// sum of gradient and coupled decay, and leaves parameters, at most at the largest f32.
    fn takes_any_gradient(&self) -> bool {
        false
    }

    /// Its weight decay.
    fn decay(&self) -> Decay;

    /// All slots its WGSL `State` has, in that order, those that are off included. At most
    /// [`MAX_SLOTS`](crate::rule::twin::MAX_SLOTS), each with an identifier of WGSL for its name.
    fn slots(&self) -> Vec<Slot>;

    /// The `override` constants of its WGSL: options that change code rather than numbers.
    fn constants(&self) -> Vec<(&'static str, bool)> {
        Vec::new()
    }

    /// The maths. The text declares `struct Hyper` (only `f32` members, named and ordered as
    /// [`Rule::scalar_names`]), `struct State` (only `vec4<f32>` members, named and ordered as
    /// [`Rule::slots`]; without slots, none) and
    /// `fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32>`, which reads parameters and gradients as
    /// `e.p` and `e.g` ([`Element`]). What else it declares
    /// shares a module with the engine's names, which differ with storage and device: begin it with the rule's own.
    fn wgsl(&self) -> &str;

    /// What must be known of the update first. With [`Reduction::UpdateNorm`] the WGSL also has
    /// `fn ratio(norms: Norms, h: Hyper) -> f32` ([`Norms`](crate::rule::twin::Norms)) and
    /// `fn finish(e: Element, step: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32>`, which gets
    /// lr·ratio·u and returns what is subtracted from e.p. With [`Reduction::Average`] it has
    /// `fn averaged(e: Element, step: vec4<f32>, share: f32, s: ptr<function, State>, h: Hyper) -> vec4<f32>`,
    /// which gets lr·u and returns what is subtracted from e.p, and
    /// `fn evaluated(e: Element, s: State, h: Hyper) -> vec4<f32>`, the weights to evaluate with, e.g being 0.
    fn reduction(&self) -> Reduction {
        Reduction::None
    }

    /// Names of the scalars, identifiers of WGSL.
    fn scalar_names(&self) -> &'static [&'static str];

    /// The scalars of the step that is the `step`-th a tensor takes, from 1, in f64: WGSL's `pow`
    /// is not precise enough for a bias correction. `lr` is the learning rate of the
    /// rule's group in that step, if [`Rule::scalars_use_lr`] says that it counts. The options `lr` and `weight_decay` may
    /// have changed since, and have no part in scalars.
    fn scalars(&self, step: u64, lr: f64) -> Scalars;

    /// Whether the scalars depend on the learning rate. Where they do not, groups of any rates share them.
    fn scalars_use_lr(&self) -> bool {
        false
    }

    /// Whether the options go together. Their ranges stand in [`options!`](crate::options!) and are looked at before; a
    /// rule has a check of its own only for what ties two options to each other.
    ///
    /// # Errors
    /// The first option that cannot be used, and what is allowed.
    fn check(&self) -> Result<(), OptionError> {
        self.check_ranges()
    }

    /// A copy behind a new box.
    fn boxed(&self) -> Box<dyn Rule>;
}

impl Clone for Box<dyn Rule> {
    fn clone(&self) -> Self {
        self.as_ref().boxed()
    }
}
