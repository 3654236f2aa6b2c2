use super::adam::{AdamHyper, adam, slots};
use crate::rule::prelude::*;

crate::options! {
    /// AdamW: Adam's direction, with weight decay beside the step instead of inside the gradient:
    /// `p ← p − lr·u − lr·λ·p`. PyTorch's `AdamW`.
    pub struct AdamW {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// Divide by the largest second moment so far.
        pub amsgrad: bool = false,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 1e-2, in NON_NEGATIVE,
    }
}

crate::rule! { AdamW as rule {
    name: "adamw",
    reference: "Loshchilov & Hutter 2019",
    decay: Decay::Decoupled(rule.weight_decay),
    slots: slots(rule.amsgrad),
    constants: [("AMSGRAD", rule.amsgrad)],
    wgsl: concat!(include_str!("../../shaders/rules/adamw.wgsl"), include_str!("../../shaders/rules/shared/adam.wgsl")),
    scalars: |step, _| AdamHyper = AdamHyper::at(step, rule.betas, rule.eps),
} }

impl Twin for AdamW {
    type State<F: Float> = [F; 3];
    type Hyper<F: Float> = AdamHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 3], h: &AdamHyper<F>) -> F {
        adam(e.g, s, h, self.amsgrad)
    }
}
