use crate::rule::prelude::*;

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

crate::rule! { Adagrad as rule {
    name: "adagrad",
    reference: "Duchi, Hazan & Singer 2011",
    decay: Decay::Coupled(rule.weight_decay),
    slots: [Slot::unsigned("sum").starting_at(rule.initial_accumulator_value)],
    wgsl: include_str!("../../shaders/rules/adagrad.wgsl"),
    scalars: |step, _| AdagradHyper {
        eps: rule.eps,
        lr_factor: 1.0 / (1.0 + step.saturating_sub(1) as f64 * rule.lr_decay),
    },
} }

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
