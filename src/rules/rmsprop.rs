use crate::rule::prelude::*;

crate::options! {
    /// RMSprop: `square_avg ← α·square_avg + (1−α)·g²`, `u = g / (√square_avg + eps)`; centred, the
    /// square of the average gradient is taken off first (and the difference kept from falling below
    /// zero); with momentum, `b ← μ·b + u` is the step. PyTorch's `RMSprop`.
    pub struct RmsProp {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// α, the share of the old average that stays.
        pub alpha: f64 = 0.99, in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// Divide by the standard deviation instead of the root mean square.
        pub centered: bool = false,
        /// μ; 0 keeps no buffer.
        pub momentum: f64 = 0.0, in NON_NEGATIVE,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { RmsProp as rule {
    name: "rmsprop",
    reference: "Tieleman & Hinton 2012; centred: Graves 2013",
    decay: Decay::Coupled(rule.weight_decay),
    slots: [
        Slot::unsigned("square_avg"),
        Slot::signed("grad_avg").active_if(rule.centered),
        Slot::signed("momentum_buffer").active_if(rule.momentum != 0.0),
    ],
    constants: [("CENTERED", rule.centered), ("MOMENTUM", rule.momentum != 0.0)],
    wgsl: include_str!("../../shaders/rules/rmsprop.wgsl"),
    scalars: |_, _| RmsPropHyper {
        alpha: rule.alpha,
        alpha_complement: 1.0 - rule.alpha,
        eps: rule.eps,
        momentum: rule.momentum,
    },
} }

impl Twin for RmsProp {
    type State<F: Float> = [F; 3];
    type Hyper<F: Float> = RmsPropHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 3], h: &RmsPropHyper<F>) -> F {
        let square_avg = average(s[0], square(e.g), h.alpha, h.alpha_complement);
        s[0] = square_avg;
        let mut variance = square_avg;
        if self.centered {
            let grad_avg = average(s[1], e.g, h.alpha, h.alpha_complement);
            s[1] = grad_avg;
            variance = (square_avg - grad_avg * grad_avg).max(F::zero());
        }
        let scaled = e.g / (variance.sqrt() + h.eps);
        if self.momentum == 0.0 {
            return scaled;
        }
        let buffer = h.momentum * s[2] + scaled;
        s[2] = buffer;
        buffer
    }
}
