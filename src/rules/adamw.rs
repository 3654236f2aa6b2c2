use super::adam::{AdamHyper, adam, slots};
use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

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

impl Rule for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn reference(&self) -> &'static str {
        "Loshchilov & Hutter 2019"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::Decoupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        slots(self.amsgrad)
    }
    fn constants(&self) -> Vec<(&'static str, bool)> {
        vec![("AMSGRAD", self.amsgrad)]
    }
    fn wgsl(&self) -> &str {
        concat!(include_str!("../../shaders/rules/adamw.wgsl"), include_str!("../../shaders/rules/shared/adam.wgsl"))
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        AdamHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        AdamHyper::at(step, self.betas, self.eps).row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for AdamW {
    type State<F: Float> = [F; 3];
    type Hyper<F: Float> = AdamHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 3], h: &AdamHyper<F>) -> F {
        adam(e.g, s, h, self.amsgrad)
    }
}
