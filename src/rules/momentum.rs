use crate::options::range::{NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::average_wide;
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// Momentum as a moving average: `v ← β·v + (1−β)·g` from 0, `u = v`; Nesterov's form takes
    /// `u = β·v + (1−β)·g` with the new v. With [`Sgd`](crate::rules::Sgd)'s momentum the step is
    /// 1/(1−β) times larger at the same learning rate.
    pub struct Momentum {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// β, the share of the old average that stays.
        pub beta: f64 = 0.9, in RATE,
        /// Look ahead along the average.
        pub nesterov: bool = false,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Momentum`].
    pub struct MomentumHyper {
        beta_complement,
    }
}

impl Rule for Momentum {
    fn name(&self) -> &'static str {
        "momentum"
    }
    fn reference(&self) -> &'static str {
        "Polyak 1964, as a moving average"
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
        vec![Slot::signed("momentum_buffer")]
    }
    fn constants(&self) -> Vec<(&'static str, bool)> {
        vec![("NESTEROV", self.nesterov)]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/momentum.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        MomentumHyper::NAMES
    }
    fn scalars(&self, _step: u64, _lr: f64) -> Scalars {
        MomentumHyper { beta_complement: 1.0 - self.beta }.row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Momentum {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = MomentumHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &MomentumHyper<F>) -> F {
        let velocity = average_wide(s[0], e.g, h.beta_complement);
        s[0] = velocity;
        if self.nesterov { average_wide(velocity, e.g, h.beta_complement) } else { velocity }
    }
}
