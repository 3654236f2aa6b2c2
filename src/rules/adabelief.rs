use crate::rule::prelude::*;

crate::options! {
    /// AdaBelief: Adam whose second moment is of the gradient's distance from its average. Optax's
    /// `adabelief`: eps_root is added to the moment that is kept.
    pub struct AdaBelief {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-16, in DIVISOR,
        /// Added to the second moment at every step.
        pub eps_root: f64 = 1e-16, in NON_NEGATIVE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { AdaBelief as rule {
    name: "adabelief",
    reference: "Zhuang et al. 2020",
    decay: Decay::Decoupled(rule.weight_decay),
    slots: [Slot::signed("exp_avg"), Slot::unsigned("exp_avg_var")],
    wgsl: include_str!("../../shaders/rules/adabelief.wgsl"),
    scalars: |step, _| AdaBeliefHyper {
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        beta2_complement: 1.0 - rule.betas[1],
        eps: rule.eps,
        eps_root: rule.eps_root,
        inverse_correction1: 1.0 / correction(rule.betas[0], step),
        inverse_root_correction2: 1.0 / correction(rule.betas[1], step).sqrt(),
    },
} }

impl Twin for AdaBelief {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdaBeliefHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdaBeliefHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1, h.beta1_complement);
        let exp_avg_var = average(s[1], square(e.g - exp_avg), h.beta2, h.beta2_complement) + h.eps_root;
        *s = [exp_avg, exp_avg_var];
        h.inverse_correction1 * exp_avg / (exp_avg_var.sqrt() * h.inverse_root_correction2 + h.eps)
    }
}
