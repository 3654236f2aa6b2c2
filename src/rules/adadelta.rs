use crate::rule::prelude::*;

crate::options! {
    /// Adadelta: steps in the parameters' own unit, `u = √(acc_delta + eps) / √(square_avg + eps) · g`,
    /// both moving averages of squares with rate ρ. PyTorch's `Adadelta`.
    pub struct Adadelta {
        /// Learning rate; the paper has none, which is 1.
        pub lr: f64 = 1.0, in NON_NEGATIVE,
        /// ρ, the share of the old averages that stays.
        pub rho: f64 = 0.9, in RATE,
        /// Added inside both roots.
        pub eps: f64 = 1e-6, in DIVISOR,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Adadelta as rule {
    name: "adadelta",
    reference: "Zeiler 2012",
    decay: Decay::Coupled(rule.weight_decay),
    slots: [Slot::unsigned("square_avg"), Slot::unsigned("acc_delta")],
    wgsl: include_str!("../../shaders/rules/adadelta.wgsl"),
    scalars: |_, _| AdadeltaHyper {
        rho: rule.rho,
        rho_complement: 1.0 - rule.rho,
        eps: rule.eps,
    },
} }

impl Twin for Adadelta {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdadeltaHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdadeltaHyper<F>) -> F {
        let square_avg = average(s[0], square(e.g), h.rho, h.rho_complement);
        let delta = (s[1] + h.eps).sqrt() / (square_avg + h.eps).sqrt() * e.g;
        s[0] = square_avg;
        s[1] = average(s[1], square(delta), h.rho, h.rho_complement);
        delta
    }
}
