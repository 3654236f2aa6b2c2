use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{average, correction, square};
use crate::rule::twin::{Element, Norms, Twin};
use crate::rule::{Decay, Reduction, Rule, Slot};

crate::options! {
    /// LAMB: Adam's direction plus λ·p, times ‖p‖ / ‖that‖, tensor by tensor. A zero norm gives the
    /// ratio 1. Optax's `lamb`.
    pub struct Lamb {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-6, in DIVISOR,
        /// Added inside the root.
        pub eps_root: f64 = 0.0, in NON_NEGATIVE,
        /// λ of the decay that is part of the measured update.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Lamb`].
    pub struct LambHyper {
        beta1_complement,
        beta2_complement,
        eps,
        uncorrected_eps_root,
        inverse_correction1,
        inverse_root_correction2,
    }
}

impl Rule for Lamb {
    fn name(&self) -> &'static str {
        "lamb"
    }
    fn reference(&self) -> &'static str {
        "You et al. 2020"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::InRatio(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq")]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/lamb.wgsl")
    }
    fn reduction(&self) -> Reduction {
        Reduction::UpdateNorm
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        LambHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        LambHyper {
            beta1_complement: 1.0 - self.betas[0],
            beta2_complement: 1.0 - self.betas[1],
            eps: self.eps,
            uncorrected_eps_root: self.eps_root * correction(self.betas[1], step),
            inverse_correction1: 1.0 / correction(self.betas[0], step),
            inverse_root_correction2: 1.0 / correction(self.betas[1], step).sqrt(),
        }
        .row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Lamb {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = LambHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &LambHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1_complement);
        let exp_avg_sq = average(s[1], square(e.g), h.beta2_complement);
        *s = [exp_avg, exp_avg_sq];
        let root = (exp_avg_sq + h.uncorrected_eps_root).sqrt() * h.inverse_root_correction2;
        h.inverse_correction1 * exp_avg / (root + h.eps)
    }

    fn ratio<F: Float>(&self, norms: &Norms<F>, _h: &LambHyper<F>) -> F {
        if norms.params == F::zero() || norms.update == F::zero() { F::one() } else { norms.params / norms.update }
    }
}
