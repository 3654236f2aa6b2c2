use crate::rule::prelude::*;

crate::options! {
    /// Momentum as a moving average: `v ← β·v + (1−β)·g` from 0, `u = v`; Nesterov's form takes
    /// `u = β·v + (1−β)·g` with the new v. With [`Sgd`](crate::rules::Sgd)'s momentum the step is
    /// 1/(1−β) times larger at the same learning rate.
    pub struct Momentum {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// β, the share of the old average that stays.
        pub beta: f64 = 0.9, in RATE,
        /// Look ahead along the average.
        pub nesterov: bool = false,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Momentum as rule {
    name: "momentum",
    reference: "Polyak 1964, as a moving average",
    decay: Decay::Coupled(rule.weight_decay),
    slots: [Slot::signed("momentum_buffer")],
    constants: [("NESTEROV", rule.nesterov)],
    takes_any_gradient: true,
    wgsl: include_str!("../../shaders/rules/momentum.wgsl"),
    scalars: |_, _| MomentumHyper {
        beta: rule.beta,
        beta_complement: 1.0 - rule.beta,
    },
} }

impl Twin for Momentum {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = MomentumHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &MomentumHyper<F>) -> F {
        let velocity = average_wide(s[0], e.g, h.beta, h.beta_complement);
        s[0] = velocity;
        if self.nesterov { average_wide(velocity, e.g, h.beta, h.beta_complement) } else { velocity }
    }
}
