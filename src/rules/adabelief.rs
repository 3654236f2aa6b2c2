use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{average, correction, square};
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// AdaBelief: Adam whose second moment is of the gradient's distance from its average. Optax's
    /// `adabelief`: eps_root is added to the moment that is kept.
    pub struct AdaBelief {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-16, in DIVISOR,
        /// Added to the second moment at every step.
        pub eps_root: f64 = 1e-16, in NON_NEGATIVE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`AdaBelief`].
    pub struct AdaBeliefHyper {
        beta1_complement,
        beta2_complement,
        eps,
        eps_root,
        inverse_correction1,
        inverse_root_correction2,
    }
}

impl Rule for AdaBelief {
    fn name(&self) -> &'static str {
        "adabelief"
    }
    fn reference(&self) -> &'static str {
        "Zhuang et al. 2020"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::Decoupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::unsigned("exp_avg_var")]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/adabelief.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        AdaBeliefHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        AdaBeliefHyper {
            beta1_complement: 1.0 - self.betas[0],
            beta2_complement: 1.0 - self.betas[1],
            eps: self.eps,
            eps_root: self.eps_root,
            inverse_correction1: 1.0 / correction(self.betas[0], step),
            inverse_root_correction2: 1.0 / correction(self.betas[1], step).sqrt(),
        }
        .row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for AdaBelief {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdaBeliefHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdaBeliefHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1_complement);
        let exp_avg_var = average(s[1], square(e.g - exp_avg), h.beta2_complement) + h.eps_root;
        *s = [exp_avg, exp_avg_var];
        h.inverse_correction1 * exp_avg / (exp_avg_var.sqrt() * h.inverse_root_correction2 + h.eps)
    }
}
