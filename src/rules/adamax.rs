use crate::rule::prelude::*;

crate::options! {
    /// Adamax: Adam with the infinity norm in place of the second moment,
    /// `n ← max(β₂·n, |g| + eps)`, `u = m̂ / n`. PyTorch's `Adamax`, which keeps eps inside the maximum.
    pub struct Adamax {
        /// Learning rate.
        pub lr: f64 = 2e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to |g|.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Adamax as rule {
    name: "adamax",
    reference: "Kingma & Ba 2015, section 7.1",
    decay: Decay::Coupled(rule.weight_decay),
    slots: [Slot::signed("exp_avg"), Slot::unsigned("exp_inf")],
    takes_any_gradient: true,
    wgsl: include_str!("../../shaders/rules/adamax.wgsl"),
    scalars: |step, _| AdamaxHyper {
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        eps: rule.eps,
        inverse_correction1: 1.0 / correction(rule.betas[0], step),
    },
} }

impl Twin for Adamax {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdamaxHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdamaxHyper<F>) -> F {
        let exp_avg = average_wide(s[0], e.g, h.beta1, h.beta1_complement);
        let exp_inf = (h.beta2 * s[1]).max(e.g.abs() + h.eps);
        *s = [exp_avg, exp_inf];
        h.inverse_correction1 * (exp_avg / exp_inf)
    }
}
