use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{average, correction, square};
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// Yogi: Adam whose second moment moves towards g² by at most (1−β₂)·g² a step. Optax's `yogi`: both
    /// moments start from the initial value.
    pub struct Yogi {
        /// Learning rate.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-3, in DIVISOR,
        /// What both moments start from.
        pub initial_accumulator_value: f64 = 1e-6, in NON_NEGATIVE,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`Yogi`].
    pub struct YogiHyper {
        beta1_complement,
        beta2_complement,
        eps,
        inverse_correction1,
        inverse_root_correction2,
    }
}

impl Rule for Yogi {
    fn name(&self) -> &'static str {
        "yogi"
    }
    fn reference(&self) -> &'static str {
        "Zaheer et al. 2018"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        Decay::Decoupled(self.weight_decay)
    }
    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot::signed("exp_avg").starting_at(self.initial_accumulator_value),
            Slot::unsigned("exp_avg_sq").starting_at(self.initial_accumulator_value),
        ]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/yogi.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        YogiHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        YogiHyper {
            beta1_complement: 1.0 - self.betas[0],
            beta2_complement: 1.0 - self.betas[1],
            eps: self.eps,
            inverse_correction1: 1.0 / correction(self.betas[0], step),
            inverse_root_correction2: 1.0 / correction(self.betas[1], step).sqrt(),
        }
        .row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Yogi {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = YogiHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &YogiHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1_complement);
        let squared = square(e.g);
        let behind = s[1] - squared;
        let sign = if behind == F::zero() { behind } else { behind.signum() };
        let exp_avg_sq = s[1] - h.beta2_complement * sign * squared;
        *s = [exp_avg, exp_avg_sq];
        h.inverse_correction1 * exp_avg / (exp_avg_sq.sqrt() * h.inverse_root_correction2 + h.eps)
    }
}
