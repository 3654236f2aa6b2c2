use crate::options::range::{DIVISOR, NON_NEGATIVE, RATE};
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::maths::{average, correction, square};
use crate::rule::twin::{Element, Twin};
use crate::rule::{Decay, Rule, Slot};

crate::options! {
    /// RAdam: Adam that leaves the second moment out until its variance is tractable (ρₜ > 5), and rectifies
    /// the step from then on. PyTorch's `RAdam`: eps is added to the uncorrected root.
    pub struct RAdam {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// Shares of the old first and second moments that stay.
        pub betas: [f64; 2] = [0.9, 0.999], in RATE,
        /// Added to the root.
        pub eps: f64 = 1e-8, in DIVISOR,
        /// Decay beside the step, as AdamW, instead of inside the gradient.
        pub decoupled_weight_decay: bool = false,
        /// λ of decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::hyper! {
    /// Scalars of [`RAdam`].
    pub struct RAdamHyper {
        beta1_complement,
        beta2_complement,
        eps,
        inverse_correction1,
        rectification,
    }
}

impl Rule for RAdam {
    fn name(&self) -> &'static str {
        "radam"
    }
    fn reference(&self) -> &'static str {
        "Liu et al. 2020"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn decay(&self) -> Decay {
        if self.decoupled_weight_decay {
            Decay::Decoupled(self.weight_decay)
        } else {
            Decay::Coupled(self.weight_decay)
        }
    }
    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq")]
    }
    fn wgsl(&self) -> &str {
        include_str!("../../shaders/rules/radam.wgsl")
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        RAdamHyper::NAMES
    }
    fn scalars(&self, step: u64, _lr: f64) -> Scalars {
        let [beta1, beta2] = self.betas;
        let correction2 = correction(beta2, step);
        let longest = 2.0 / (1.0 - beta2) - 1.0;
        let length = longest - 2.0 * step as f64 * (1.0 - correction2) / correction2;
        let rectification = if length > 5.0 {
            let now = (length - 4.0) * (length - 2.0) * longest;
            let limit = (longest - 4.0) * (longest - 2.0) * length;
            (now / limit * correction2).sqrt()
        } else {
            0.0
        };
        RAdamHyper {
            beta1_complement: 1.0 - beta1,
            beta2_complement: 1.0 - beta2,
            eps: self.eps,
            inverse_correction1: 1.0 / correction(beta1, step),
            rectification,
        }
        .row()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for RAdam {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = RAdamHyper<F>;

    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &RAdamHyper<F>) -> F {
        let exp_avg = average(s[0], e.g, h.beta1_complement);
        let exp_avg_sq = average(s[1], square(e.g), h.beta2_complement);
        *s = [exp_avg, exp_avg_sq];
        let corrected = h.inverse_correction1 * exp_avg;
        if h.rectification > F::zero() { h.rectification * corrected / (exp_avg_sq.sqrt() + h.eps) } else { corrected }
    }
}
