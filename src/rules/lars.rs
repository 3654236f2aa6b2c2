use crate::rule::prelude::*;

crate::options! {
    /// LARS: the gradient plus λ·p, times `trust_coefficient·‖p‖ / (‖that‖ + eps)`, tensor by tensor;
    /// momentum over the steps that result, learning rate included. A zero norm gives the ratio 1.
    /// Optax's `lars`; its trace is the negative of this buffer.
    pub struct Lars {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// Share of the old buffer that stays.
        pub momentum: f64 = 0.9, in NON_NEGATIVE,
        /// Look ahead along the buffer.
        pub nesterov: bool = false,
        /// Multiplies the ratio.
        pub trust_coefficient: f64 = 1e-3, in NON_NEGATIVE,
        /// Added to the update's norm.
        pub eps: f64 = 0.0, in NON_NEGATIVE,
        /// λ of the decay that is part of the measured update.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Lars as rule {
    name: "lars",
    reference: "You, Gitman & Ginsburg 2017",
    decay: Decay::InRatio(rule.weight_decay),
    slots: [Slot::signed("momentum_buffer")],
    constants: [("NESTEROV", rule.nesterov)],
    reduction: Reduction::UpdateNorm,
    wgsl: include_str!("../../shaders/rules/lars.wgsl"),
    scalars: |_, _| LarsHyper {
        momentum: rule.momentum,
        trust_coefficient: rule.trust_coefficient,
        eps: rule.eps,
    },
} }

impl Twin for Lars {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = LarsHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, _s: &mut [F; 1], _h: &LarsHyper<F>) -> F {
        e.g
    }

    fn ratio<F: Float>(&self, norms: &Norms<F>, h: &LarsHyper<F>) -> F {
        if norms.params == F::zero() || norms.update == F::zero() {
            F::one()
        } else {
            h.trust_coefficient * norms.params / (norms.update + h.eps)
        }
    }

    #[inline(always)]
    fn finish<F: Float>(&self, _e: Element<F>, step: F, s: &mut [F; 1], h: &LarsHyper<F>) -> F {
        let buffer = step + h.momentum * s[0];
        s[0] = buffer;
        if self.nesterov { step + h.momentum * buffer } else { buffer }
    }
}
