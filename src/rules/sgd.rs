use crate::rule::prelude::*;

crate::options! {
    /// Gradient descent: plain, with momentum, with dampening or in Nesterov's form.
    ///
    /// Full, mini-batch or stochastic is a matter of which gradients the caller brings. With
    /// momentum μ and dampening d: `b ← μ·b + (1−d)·g` (the first b is g), then `u = b`, or
    /// `u = g + μ·b` for Nesterov. PyTorch's `SGD`.
    pub struct Sgd {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// μ; 0 keeps no state.
        pub momentum: f64 = 0.0, in NON_NEGATIVE,
        /// d, the share of the gradient kept out of the buffer.
        pub dampening: f64 = 0.0, in FINITE,
        /// Look ahead along the buffer. Needs momentum and no dampening.
        pub nesterov: bool = false,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Sgd as rule {
    name: "sgd",
    reference: "Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013",
    decay: Decay::Coupled(rule.weight_decay),
    slots: [Slot::signed("momentum_buffer").active_if(rule.momentum != 0.0)],
    constants: [("MOMENTUM", rule.momentum != 0.0), ("NESTEROV", rule.nesterov)],
    takes_any_gradient: true,
    check: Sgd::together,
    wgsl: include_str!("../../shaders/rules/sgd.wgsl"),
    scalars: |step, _| SgdHyper {
        momentum: rule.momentum,
        undamped: if step <= 1 { 1.0 } else { 1.0 - rule.dampening },
    },
} }

impl Twin for Sgd {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = SgdHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &SgdHyper<F>) -> F {
        if self.momentum == 0.0 {
            return e.g;
        }
        let buffer = saturated(h.momentum * s[0], h.undamped * e.g);
        s[0] = buffer;
        if self.nesterov { saturated(e.g, h.momentum * buffer) } else { buffer }
    }
}

impl Sgd {
    fn together(&self) -> Result<(), OptionError> {
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(OptionError::new("nesterov", "needs momentum above 0 and dampening 0"));
        }
        Ok(())
    }
}
