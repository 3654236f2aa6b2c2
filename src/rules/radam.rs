use crate::rule::prelude::*;

crate::options! {
    /// RAdam: Adam that leaves the second moment out until its variance is tractable (ρₜ > 5), and rectifies
    /// the step from then on. PyTorch's `RAdam`: eps is added to the uncorrected root.
    pub struct RAdam {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// Decay beside the step, as AdamW, instead of inside the gradient.
        pub decoupled_weight_decay: bool = false,
        /// λ of decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { RAdam as rule {
    name: "radam",
    reference: "Liu et al. 2020",
    decay: if rule.decoupled_weight_decay { Decay::Decoupled(rule.weight_decay) } else { Decay::Coupled(rule.weight_decay) },
    slots: [Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq")],
    wgsl: include_str!("../../shaders/rules/radam.wgsl"),
    scalars: |step, _| RAdamHyper {
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        beta2_complement: 1.0 - rule.betas[1],
        eps: rule.eps,
        inverse_correction1: 1.0 / correction(rule.betas[0], step),
        rectification: rectification(rule.betas[1], step),
    },
} }

impl Twin for RAdam {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = RAdamHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &RAdamHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1, h.beta1_complement);
        let exp_avg_sq = average(s[1], square(e.g), h.beta2, h.beta2_complement);
        *s = [exp_avg, exp_avg_sq];
        let corrected = h.inverse_correction1 * exp_avg;
        if h.rectification > F::zero() { h.rectification * corrected / (exp_avg_sq.sqrt() + h.eps) } else { corrected }
    }
}

/// Of the step, once the variance of the second moment is tractable; 0 before.
fn rectification(beta2: f64, step: u64) -> f64 {
    let correction2 = correction(beta2, step);
    let longest = 2.0 / (1.0 - beta2) - 1.0;
    let length = longest - 2.0 * step as f64 * (1.0 - correction2) / correction2;
    if length > 5.0 {
        let now = (length - 4.0) * (length - 2.0) * longest;
        let limit = (longest - 4.0) * (longest - 2.0) * length;
        (now / limit * correction2).sqrt()
    } else {
        0.0
    }
}
