use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{average, square};
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// Adadelta: steps in the parameters' own unit, `u = √(acc_delta + eps) / √(square_avg + eps) · g`,
    /// both moving averages of squares with rate ρ. PyTorch's `Adadelta`.
    pub struct Adadelta {
        /// Learning rate; the paper has none, which is 1.
        pub lr: f64 = 1.0, in NON_NEGATIVE,
        /// ρ, the share of the old averages that stays.
        pub rho: f64 = 0.9, in RATE,
        /// Added inside both roots.
        pub eps: f64 = 1e-6, in DIVISOR,
        /// λ of coupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Adadelta`].
    pub struct AdadeltaHyper {
        rho_complement,
        eps,
    }
}

impl Rule for Adadelta {
    fn name(&self) -> &'static str {
        "adadelta"
    }
    fn reference(&self) -> &'static str {
        "Zeiler 2012"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::Coupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::unsigned("square_avg"), Slot::unsigned("acc_delta")]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/adadelta.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        AdadeltaHyper::NAMES
    }
    fn scalars(&self, _step: u64, _lr: f64) -> Scalars {
        AdadeltaHyper { rho_complement: 1.0 - self.rho, eps: self.eps }.row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Adadelta {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = AdadeltaHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &AdadeltaHyper<F>) -> F {
        let square_avg = average(s[0], square(e.g), h.rho_complement);
        let delta = (s[1] + h.eps).sqrt() / (square_avg + h.eps).sqrt() * e.g;
        s[0] = square_avg;
        s[1] = average(s[1], square(delta), h.rho_complement);
        delta
    }
}
