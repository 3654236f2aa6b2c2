use crate::rule::prelude::*;

crate::options! {
    /// NAdam: Adam with Nesterov momentum whose β₁ warms up, `μₜ = β₁·(1 − ½·0.96^(t·momentum_decay))`.
    /// PyTorch's `NAdam`; the products of μ are kept in f64 on the host.
    pub struct NAdam {
        /// Learning rate.
        pub lr: f64 = 2e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// How fast β₁ warms up.
        pub momentum_decay: f64 = 4e-3, in NON_NEGATIVE,
        /// Decay beside the step, as AdamW, instead of inside the gradient.
        pub decoupled_weight_decay: bool = false,
        /// λ of decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

/// Less than half a digit of whatever a beta leaves of 1: from there on all steps are alike.
const LEAST_FADING: f64 = f64::EPSILON * f64::EPSILON / 8.0;

crate::hyper! {
    /// Scalars of [`NAdam`].
    pub struct NAdamHyper {
        beta1,
        beta1_complement,
        beta2,
        beta2_complement,
        eps,
        gradient_weight,
        average_weight,
        inverse_root_correction2,
    }
}

crate::rule! { NAdam as rule {
    name: "nadam",
    reference: "Dozat 2016",
    decay: if rule.decoupled_weight_decay { Decay::Decoupled(rule.weight_decay) } else { Decay::Coupled(rule.weight_decay) },
    slots: [Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq")],
    wgsl: include_str!("../../shaders/rules/nadam.wgsl"),
    scalars: |step, _| NAdamHyper = rule.hyper(step),
} }

impl Twin for NAdam {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = NAdamHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &NAdamHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1, h.beta1_complement);
        let exp_avg_sq = average(s[1], square(e.g), h.beta2, h.beta2_complement);
        *s = [exp_avg, exp_avg_sq];
        let step = h.gradient_weight * e.g + h.average_weight * exp_avg;
        step / (exp_avg_sq.sqrt() * h.inverse_root_correction2 + h.eps)
    }
}

impl NAdam {
    fn hyper(&self, step: u64) -> NAdamHyper<f64> {
        let [beta1, beta2] = self.betas;
        // What mu_t, beta1 * (1 - 0.96^(t * momentum_decay) / 2), leaves of 1: by itself, since mu can be next to 1.
        let fading = |t: u64| 0.96_f64.powf(t as f64 * self.momentum_decay);
        let left = |t: u64| (1.0 - beta1) + beta1 * 0.5 * fading(t);
        let mut logarithm = 0.0;
        for t in 1..=step {
            if fading(t) < LEAST_FADING {
                logarithm += (step - t + 1) as f64 * (beta1 - 1.0).ln_1p();
                break;
            }
            logarithm += (-left(t)).ln_1p();
            // Below half an ulp of 1 the product no longer counts, and it only falls.
            if logarithm < (f64::EPSILON / 4.0).ln() {
                break;
            }
        }
        let next = (-left(step + 1)).ln_1p();
        NAdamHyper {
            beta1,
            beta1_complement: 1.0 - beta1,
            beta2,
            beta2_complement: 1.0 - beta2,
            eps: self.eps,
            gradient_weight: left(step) / -logarithm.exp_m1(),
            average_weight: next.exp() / -(logarithm + next).exp_m1(),
            inverse_root_correction2: 1.0 / correction(beta2, step).sqrt(),
        }
    }
}
