use super::adam::AdamHyper;
use crate::rule::prelude::*;

crate::options! {
    /// Yogi: Adam whose second moment moves towards g² by at most (1−β₂)·g² a step. Optax's `yogi`: both
    /// moments start from the initial value.
    pub struct Yogi {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-3, in DIVISOR,
        /// What both moments start from.
        pub initial_accumulator_value: f64 = 1e-6, in NON_NEGATIVE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Yogi as rule {
    name: "yogi",
    reference: "Zaheer et al. 2018",
    decay: Decay::Decoupled(rule.weight_decay),
    slots: [
        Slot::signed("exp_avg").starting_at(rule.initial_accumulator_value),
        Slot::unsigned("exp_avg_sq").starting_at(rule.initial_accumulator_value),
    ],
    wgsl: include_str!("../../shaders/rules/yogi.wgsl"),
    scalars: |step, _| AdamHyper = AdamHyper::at(step, rule.betas, rule.eps),
} }

impl Twin for Yogi {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdamHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdamHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1, h.beta1_complement);
        let squared = square(e.g);
        let before = s[1];
        let exp_avg_sq = if before < squared {
            before + h.beta2_complement * squared
        } else if before == squared {
            before
        } else if h.beta2_complement < F::of(0.5) {
            before - h.beta2_complement * squared
        } else {
            // Where little is left, none of its digits are lost.
            before - squared + h.beta2 * squared
        };
        *s = [exp_avg, exp_avg_sq];
        h.inverse_correction1 * exp_avg / (exp_avg_sq.sqrt() * h.inverse_root_correction2 + h.eps)
    }
}
