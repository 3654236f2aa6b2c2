use crate::rule::prelude::*;

crate::options! {
    /// Lion: the sign of an average of gradient and momentum, `u = sign(β₁·m + (1−β₁)·g)`, then
    /// `m ← β₂·m + (1−β₂)·g`. One slot. Optax's `lion`.
    pub struct Lion {
        /// Learning rate.
        pub lr: f64 = 1e-4, in NON_NEGATIVE,
        /// Shares of the old momentum in the step and in the momentum kept.
        pub betas: [f64; 2] = [0.9, 0.99], in RATE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 1e-3, in NON_NEGATIVE,
    }
}

crate::rule! { Lion as rule {
    name: "lion",
    reference: "Chen et al. 2023",
    decay: Decay::Decoupled(rule.weight_decay),
    slots: [Slot::signed("exp_avg")],
    takes_any_gradient: true,
    wgsl: include_str!("../../shaders/rules/lion.wgsl"),
    scalars: |_, _| LionHyper {
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        beta2_complement: 1.0 - rule.betas[1],
    },
} }

impl Twin for Lion {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = LionHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &LionHyper<F>) -> F {
        let step = average_wide(s[0], e.g, h.beta1, h.beta1_complement);
        s[0] = average_wide(s[0], e.g, h.beta2, h.beta2_complement);
        if step == F::zero() { step } else { step.signum() }
    }
}
