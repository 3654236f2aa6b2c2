use crate::rule::prelude::*;

const AT_MOST_ZERO: Range =
    Range::new(Included(f32::MIN as f64), Included(0.0), "finite, at most 0").told("a finite number, at most 0");

/// Its square is a normal f32.
const ROOT: Range = Range::new(Included(1.0 / LARGEST_ROOT), Included(LARGEST_ROOT), "from 2^-63 to 2^63")
    .told("from 2^-63 to 2^63, since its square divides");
const LARGEST_ROOT: f64 = (1u64 << 63) as f64;

crate::options! {
    /// Adafactor: the gradient over the root of its mean square, which of matrices is kept by rows and
    /// columns only. The step is `max(eps₂, RMS(p))·min(lr, 1/√t)` times that, over `max(1, RMS(u)/d)`.
    /// PyTorch's `Adafactor`.
    pub struct Adafactor {
        /// The most that steps are relative to the parameters, and what decay goes by.
        pub lr: f64 = 1e-2, in NON_NEGATIVE,
        /// The mean square takes this step's share with weight t to this power, at most 0.
        pub beta2_decay: f64 = -0.8, in AT_MOST_ZERO,
        /// The least root of a mean square (PyTorch: the resolution of the parameters' type) and the
        /// least RMS that parameters count with.
        pub eps: [f64; 2] = [1.1920928955078125e-7, 1e-3], in [ROOT, NON_NEGATIVE],
        /// RMS of the update above which it is scaled down.
        pub d: f64 = 1.0, in DIVISOR,
        /// λ of decoupled decay.
        pub weight_decay: f64 = 0.0, in NON_NEGATIVE,
    }
}

crate::rule! { Adafactor as rule {
    name: "adafactor",
    reference: "Shazeer & Stern 2018",
    decay: Decay::Decoupled(rule.weight_decay),
    slots: [Slot::mean_square("variance")],
    reduction: Reduction::UpdateNorm,
    wgsl: include_str!("../../shaders/rules/adafactor.wgsl"),
    scalars: |step, _| AdafactorHyper {
        beta2: -(rule.beta2_decay * (step as f64).ln()).exp_m1(),
        beta2_complement: (step as f64).powf(rule.beta2_decay),
        eps1: rule.eps[0],
        eps1_squared: rule.eps[0] * rule.eps[0],
        eps2: rule.eps[1],
        d: rule.d,
        root_step: (step as f64).sqrt(),
    },
} }

impl Twin for Adafactor {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = AdafactorHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &AdafactorHyper<F>) -> F {
        let variance = if s[0] < h.eps1_squared { h.eps1_squared } else { s[0] };
        e.g / variance.sqrt()
    }

    fn ratio<F: Float>(&self, norms: &Norms<F>, h: &AdafactorHyper<F>) -> F {
        let root = norms.elements.sqrt();
        let size = norms.params / root;
        let size = if size < h.eps2 { h.eps2 } else { size };
        // min(lr, 1/√t) / lr
        let most = F::one() / h.root_step;
        let share = if norms.lr <= most { F::one() } else { most / norms.lr };
        let excess = norms.update / root / h.d;
        size * share / if excess > F::one() { excess } else { F::one() }
    }
}
