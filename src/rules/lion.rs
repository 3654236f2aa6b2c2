use crate::options::range::{NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::average_wide;
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// Lion: the sign of an average of gradient and momentum, `u = sign(β₁·m + (1−β₁)·g)`, then
    /// `m ← β₂·m + (1−β₂)·g`. One slot. Optax's `lion`.
    pub struct Lion {
        /// Learning rate.
        pub lr: f64 = 1e-4, in NON_NEGATIVE,
        /// Shares of the old momentum in the step and in the momentum kept.
        pub betas: [f64; 2] = [0.9, 0.99], in RATE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 1e-3, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Lion`].
    pub struct LionHyper {
        step_complement,
        kept_complement,
    }
}

impl Rule for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }
    fn reference(&self) -> &'static str {
        "Chen et al. 2023"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn takes_any_gradient(&self) -> bool {
        true
    }
    fn decay(&self) -> Decay {
        Decay::Decoupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg")]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/lion.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        LionHyper::NAMES
    }
    fn scalars(&self, _step: u64, _lr: f64) -> Scalars {
        LionHyper { step_complement: 1.0 - self.betas[0], kept_complement: 1.0 - self.betas[1] }.row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Lion {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = LionHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &LionHyper<F>) -> F {
        let step = average_wide(s[0], e.g, h.step_complement);
        s[0] = average_wide(s[0], e.g, h.kept_complement);
        if step == F::zero() { step } else { step.signum() }
    }
}
