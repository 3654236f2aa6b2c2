use crate::rule::prelude::*;

crate::options! {
    /// Adam: `u = m̂ / (√v̂ + eps)` with bias-corrected moving averages of the gradient and its
    /// square. PyTorch's `Adam`, which keeps AMSGrad's maximum over the raw second moments (the paper
    /// over the raw ones too, Optax over the corrected ones).
    pub struct Adam {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// Divide by the largest second moment so far.
        pub amsgrad: bool = false,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Adam`] and [`AdamW`](crate::rules::AdamW).
    pub struct AdamHyper {
        beta1,
        beta1_complement,
        beta2,
        beta2_complement,
        eps,
        inverse_correction1,
        inverse_root_correction2,
    }
}

impl AdamHyper<f64> {
    pub(super) fn at(step: u64, [beta1, beta2]: [f64; 2], eps: f64) -> Self {
        Self {
            beta1,
            beta1_complement: 1.0 - beta1,
            beta2,
            beta2_complement: 1.0 - beta2,
            eps,
            inverse_correction1: 1.0 / correction(beta1, step),
            inverse_root_correction2: 1.0 / correction(beta2, step).sqrt(),
        }
    }
}

/// The slots of Adam and AdamW.
pub(super) fn slots(amsgrad: bool) -> Vec<Slot> {
    vec![Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq"), Slot::unsigned("max_exp_avg_sq").active_if(amsgrad)]
}

/// The twin of `shaders/rules/shared/adam.wgsl`.
#[inline(always)]
pub(super) fn adam<F: Float>(g: F, s: &mut [F; 3], h: &AdamHyper<F>, amsgrad: bool) -> F {
    let exp_avg = average(s[0], g, h.beta1, h.beta1_complement);
    let exp_avg_sq = average(s[1], square(g), h.beta2, h.beta2_complement);
    s[0] = exp_avg;
    s[1] = exp_avg_sq;
    let mut second = exp_avg_sq;
    if amsgrad {
        second = s[2].max(exp_avg_sq);
        s[2] = second;
    }
    h.inverse_correction1 * exp_avg / (second.sqrt() * h.inverse_root_correction2 + h.eps)
}

crate::rule! { Adam as rule {
    name: "adam",
    reference: "Kingma & Ba 2015; AMSGrad: Reddi et al. 2018",
    decay: Decay::Coupled(rule.weight_decay),
    slots: slots(rule.amsgrad),
    constants: [("AMSGRAD", rule.amsgrad)],
    wgsl: concat!(include_str!("../../shaders/rules/adam.wgsl"), include_str!("../../shaders/rules/shared/adam.wgsl")),
    scalars: |step, _| AdamHyper = AdamHyper::at(step, rule.betas, rule.eps),
} }

impl Twin for Adam {
    type State<F: Float> = [F; 3];
    type Hyper<F: Float> = AdamHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 3], h: &AdamHyper<F>) -> F {
        adam(e.g, s, h, self.amsgrad)
    }
}
