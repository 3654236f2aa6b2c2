use crate::rule::prelude::*;

/// What f32 rounds off y is divided by β₁ where x is wanted: below 1e-3, little of x is left.
const DIVIDING_RATE: Range = Range::new(Included(1e-3), Excluded(1.0), "at least 1e-3, below 1")
    .told("at least 1e-3 and below 1, since the weights to evaluate with are divided by it");

crate::options! {
    /// Schedule-free AdamW, as in the paper: z takes AdamW's steps of size
    /// `γ = lr·√(1−β₂ᵗ)·min(1, t/warmup_steps)`, x averages them by `γ²/Σγ²`, and the parameter is
    /// `y = (1−β₁)z + β₁x`, where gradients are taken. Evaluate with x. Package `schedulefree` has it as
    /// `AdamWScheduleFreePaper`; its `AdamWScheduleFree` corrects the second moment instead of γ.
    pub struct ScheduleFreeAdamW {
        /// Learning rate. Needs no schedule; a warm-up should be the rule's own.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// How far y is from z to x, and the share of the old second moment that stays. The first is
        /// at least 1e-3.
        pub betas: [f64; 2] = [0.9, 0.999], in [DIVIDING_RATE, RATE],
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// λ of the decay of y within z's step.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
        /// Steps over which γ rises.
        pub warmup_steps: u64 = 0,
    }
}

crate::rule! { ScheduleFreeAdamW as rule {
    name: "schedule_free_adamw",
    reference: "Defazio et al. 2024",
    decay: Decay::InRatio(rule.weight_decay),
    slots: [Slot::signed("z").follows_weights(), Slot::unsigned("exp_avg_sq")],
    reduction: Reduction::Average,
    wgsl: include_str!("../../shaders/rules/schedule_free_adamw.wgsl"),
    scalars: |step, _| ScheduleFreeAdamWHyper {
        size: correction(rule.betas[1], step).sqrt() * rule.warm(step),
        beta1: rule.betas[0],
        beta1_complement: 1.0 - rule.betas[0],
        beta2: rule.betas[1],
        beta2_complement: 1.0 - rule.betas[1],
        eps: rule.eps,
        first: if step == 1 { 1.0 } else { 0.0 },
    },
} }

impl Twin for ScheduleFreeAdamW {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = ScheduleFreeAdamWHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &ScheduleFreeAdamWHyper<F>) -> F {
        s[1] = average(s[1], square(e.g), h.beta2, h.beta2_complement);
        e.g / (s[1].sqrt() + h.eps)
    }

    #[inline(always)]
    fn averaged<F: Float>(&self, e: Element<F>, step: F, share: F, s: &mut [F; 2], h: &ScheduleFreeAdamWHyper<F>) -> F {
        let z = if h.first != F::zero() || s[0].is_nan() { e.p } else { s[0] };
        let d = h.size * step;
        s[0] = z - d;
        share * (e.p - z) + (h.beta1_complement + h.beta1 * share) * d
    }

    fn evaluated<F: Float>(&self, e: Element<F>, s: &[F; 2], h: &ScheduleFreeAdamWHyper<F>) -> F {
        if s[0].is_nan() { e.p } else { (e.p - h.beta1_complement * s[0]) / h.beta1 }
    }
}

impl ScheduleFreeAdamW {
    fn warm(&self, step: u64) -> f64 {
        if step < self.warmup_steps { step as f64 / self.warmup_steps as f64 } else { 1.0 }
    }
}
