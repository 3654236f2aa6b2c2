use crate::options::OptionError;
use crate::options::range::{FINITE, NON_NEGATIVE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::saturated;
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

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

crate::hyper! {
    /// Scalars of [`Sgd`].
    pub struct SgdHyper {
        momentum,
        undamped,
    }
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }
    fn reference(&self) -> &'static str {
        "Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn takes_any_gradient(&self) -> bool {
        true
    }
    fn decay(&self) -> Decay {
        Decay::Coupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("momentum_buffer").active_if(self.momentum != 0.0)]
    }
    fn constants(&self) -> Vec<(&'static str, bool)> {
        vec![("MOMENTUM", self.momentum != 0.0), ("NESTEROV", self.nesterov)]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/sgd.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        SgdHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        let undamped = if step <= 1 { 1.0 } else { 1.0 - self.dampening };
        SgdHyper { momentum: self.momentum, undamped }.row()
    }
    fn check(&self) -> Result<(), OptionError> {
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(OptionError::new("nesterov", "needs momentum above 0 and dampening 0"));
        }
        Ok(())
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

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
