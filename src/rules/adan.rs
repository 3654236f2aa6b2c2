use crate::rule::prelude::*;

/// Above what the rule sees of gradients: marks rows that joined the tensor late and have no gradient before. A power of
/// two, and not NaN, so that every storage holds it.
const NONE_BEFORE: f64 = 2.0 * LARGEST_SEEN;

crate::options! {
    /// Adan: Adam with an average of the gradients' differences, `u = (m̂ + (1−β₂)·d̂) / (√(n̂ + eps_root) + eps)`,
    /// n of `g + (1−β₂)·(g − g₋₁)`. Four slots. Optax's `adan`: the first difference is zero.
    pub struct Adan {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old gradient, difference and square averages that stay.
        pub betas: [f64; 3] = [0.98, 0.92, 0.99], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// Added inside the root.
        pub eps_root: f64 = 1e-8, in NON_NEGATIVE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Adan as rule {
    name: "adan",
    reference: "Xie et al. 2022",
    decay: Decay::Decoupled(rule.weight_decay),
    slots: [
        Slot::signed("exp_avg"),
        Slot::signed("exp_avg_diff"),
        Slot::unsigned("exp_avg_sq"),
        Slot::signed("prev_grad").in_new_rows_at(NONE_BEFORE),
    ],
    wgsl: include_str!("../../shaders/rules/adan.wgsl"),
    scalars: |step, _| AdanHyper {
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        beta2_complement: 1.0 - rule.betas[1],
        beta3: rule.betas[2],
        beta3_complement: 1.0 - rule.betas[2],
        has_difference: if step > 1 { 1.0 } else { 0.0 },
        eps: rule.eps,
        uncorrected_eps_root: rule.eps_root * correction(rule.betas[2], step),
        inverse_correction1: 1.0 / correction(rule.betas[0], step),
        inverse_correction2: 1.0 / correction(rule.betas[1], step),
        inverse_root_correction3: 1.0 / correction(rule.betas[2], step).sqrt(),
    },
} }

impl Twin for Adan {
    type State<F: Float> = [F; 4];
    type Hyper<F: Float> = AdanHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 4], h: &AdanHyper<F>) -> F {
        let before = if s[3] >= F::of(NONE_BEFORE) { e.g } else { s[3] };
        let difference = h.has_difference * (e.g - before);
        let exp_avg = average(s[0], e.g, h.beta1, h.beta1_complement);
        let exp_avg_diff = average(s[1], difference, h.beta2, h.beta2_complement);
        let exp_avg_sq = average(s[2], square(e.g + h.beta2_complement * difference), h.beta3, h.beta3_complement);
        *s = [exp_avg, exp_avg_diff, exp_avg_sq, e.g];
        let step = h.inverse_correction1 * exp_avg + h.beta2_complement * h.inverse_correction2 * exp_avg_diff;
        step / ((exp_avg_sq + h.uncorrected_eps_root).sqrt() * h.inverse_root_correction3 + h.eps)
    }
}
