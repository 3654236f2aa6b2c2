use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{average_wide, correction};
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// Adamax: Adam with the infinity norm in place of the second moment,
    /// `n ← max(β₂·n, |g| + eps)`, `u = m̂ / n`. PyTorch's `Adamax`, which keeps eps inside the maximum.
    pub struct Adamax {
        /// Learning rate.
        pub lr: f64 = 2e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to |g|.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Adamax`].
    pub struct AdamaxHyper {
        beta1_complement,
        beta2,
        eps,
        inverse_correction1,
    }
}

impl Rule for Adamax {
    fn name(&self) -> &'static str {
        "adamax"
    }
    fn reference(&self) -> &'static str {
        "Kingma & Ba 2015, section 7.1"
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
        vec![Slot::signed("exp_avg"), Slot::unsigned("exp_inf")]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/adamax.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        AdamaxHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        AdamaxHyper {
            beta1_complement: 1.0 - self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
            inverse_correction1: 1.0 / correction(self.betas[0], step),
        }
        .row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Adamax {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdamaxHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdamaxHyper<F>) -> F {
        let exp_avg = average_wide(s[0], e.g, h.beta1_complement);
        let exp_inf = (h.beta2 * s[1]).max(e.g.abs() + h.eps);
        *s = [exp_avg, exp_inf];
        h.inverse_correction1 * (exp_avg / exp_inf)
    }
}
