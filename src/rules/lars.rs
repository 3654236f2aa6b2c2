use crate::options::range::NON_NEGATIVE;
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::twin::{Element, Norms, Twin};
use crate::rule::{Decay, Reduction, Rule, Slot};

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

crate::hyper! {
    /// Scalars of [`Lars`].
    pub struct LarsHyper {
        momentum,
        trust_coefficient,
        eps,
    }
}

impl Rule for Lars {
    fn name(&self) -> &'static str {
        "lars"
    }
    fn reference(&self) -> &'static str {
        "You, Gitman & Ginsburg 2017"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::InRatio(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("momentum_buffer")]
    }
    fn constants(&self) -> Vec<(&'static str, bool)> {
        vec![("NESTEROV", self.nesterov)]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/lars.wgsl")
    }
    fn reduction(&self) -> Reduction {
        Reduction::UpdateNorm
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        LarsHyper::NAMES
    }
    fn scalars(&self, _step: u64, _lr: f64) -> Scalars {
        LarsHyper { momentum: self.momentum, trust_coefficient: self.trust_coefficient, eps: self.eps }.row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

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
