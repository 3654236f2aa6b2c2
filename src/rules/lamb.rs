use crate::rule::prelude::*;

crate::options! {
    /// LAMB: Adam's direction plus λ·p, times ‖p‖ / ‖that‖, tensor by tensor. A zero norm gives the
    /// ratio 1. Optax's `lamb`.
    pub struct Lamb {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-6, in DIVISOR,
        /// Added inside the root.
        pub eps_root: f64 = 0.0, in NON_NEGATIVE,
        /// λ of the decay that is part of the measured update.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Lamb as rule {
    name: "lamb",
    reference: "You et al. 2020",
    decay: Decay::InRatio(rule.weight_decay),
    slots: [Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq")],
    reduction: Reduction::UpdateNorm,
    wgsl: include_str!("../../shaders/rules/lamb.wgsl"),
    scalars: |step, _| LambHyper {
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        beta2_complement: 1.0 - rule.betas[1],
        eps: rule.eps,
        uncorrected_eps_root: rule.eps_root * correction(rule.betas[1], step),
        inverse_correction1: 1.0 / correction(rule.betas[0], step),
        inverse_root_correction2: 1.0 / correction(rule.betas[1], step).sqrt(),
    },
} }

impl Twin for Lamb {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = LambHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &LambHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1, h.beta1_complement);
        let exp_avg_sq = average(s[1], square(e.g), h.beta2, h.beta2_complement);
        *s = [exp_avg, exp_avg_sq];
        let root = (exp_avg_sq + h.uncorrected_eps_root).sqrt() * h.inverse_root_correction2;
        h.inverse_correction1 * exp_avg / (root + h.eps)
    }

    fn ratio<F: Float>(&self, norms: &Norms<F>, _h: &LambHyper<F>) -> F {
        if norms.params == F::zero() || norms.update == F::zero() { F::one() } else { norms.params / norms.update }
    }
}
