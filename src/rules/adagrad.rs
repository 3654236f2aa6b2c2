use crate::options::range::{DIVISOR, NON_NEGATIVE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{saturated, square};
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// Adagrad: `sum ← sum + g²`, `u = g / (√sum + eps)`, with the learning rate divided by
    /// `1 + (step−1)·lr_decay`. PyTorch's `Adagrad`.
    pub struct Adagrad {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// How fast the learning rate falls with the steps taken.
        pub lr_decay: f64 = 0.0, in NON_NEGATIVE,
        /// What the sum of squares starts from.
        pub initial_accumulator_value: f64 = 0.0, in NON_NEGATIVE,
        /// Added to the root.
        pub eps: f64 = 1e-10, in DIVISOR,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Adagrad`].
    pub struct AdagradHyper {
        eps,
        lr_factor,
    }
}

impl Rule for Adagrad {
    fn name(&self) -> &'static str {
        "adagrad"
    }
    fn reference(&self) -> &'static str {
        "Duchi, Hazan & Singer 2011"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::Coupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::unsigned("sum").starting_at(self.initial_accumulator_value)]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/adagrad.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        AdagradHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        let before = step.saturating_sub(1) as f64;
        AdagradHyper { eps: self.eps, lr_factor: 1.0 / (1.0 + before * self.lr_decay) }.row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Adagrad {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = AdagradHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &AdagradHyper<F>) -> F {
        let sum = saturated(s[0], square(e.g));
        s[0] = sum;
        h.lr_factor * e.g / (sum.sqrt() + h.eps)
    }
}
