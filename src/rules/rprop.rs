use crate::rule::prelude::*;

const ABOVE_ONE: Range =
    Range::new(Excluded(1.0), Included(f32::MAX as f64), "finite, above 1").told("a finite number above 1");

crate::options! {
    /// Resilient propagation: each element has a step size that grows while its gradient keeps its sign and
    /// shrinks when it turns; the gradient's size is of no account. For full batches. PyTorch's `Rprop`.
    /// The signs are multiplied, not the gradients, whose product can underflow.
    pub struct Rprop {
        /// The first step size; schedules and later changes do not reach it.
        pub lr: f64 = 1e-2, in POSITIVE,
        /// Factors of the step size when the sign turns and when it stays.
        pub etas: [f64; 2] = [0.5, 1.2], in [FRACTION, ABOVE_ONE],
        /// Least and largest step size.
        pub step_sizes: [f64; 2] = [1e-6, 50.0], in [NON_NEGATIVE, POSITIVE],
    }
}

crate::rule! { Rprop as rule {
    name: "rprop",
    reference: "Riedmiller & Braun 1993",
    decay: Decay::Coupled(0.0),
    slots: [Slot::signed("prev"), Slot::unsigned("step_size").starting_at(rule.lr).exact()],
    takes_any_gradient: true,
    scaled_by_lr: false,
    check: Rprop::together,
    wgsl: include_str!("../../shaders/rules/rprop.wgsl"),
    scalars: |_, _| RpropHyper {
        shrink: rule.etas[0],
        grow: rule.etas[1],
        least: rule.step_sizes[0],
        largest: rule.step_sizes[1],
    },
} }

impl Twin for Rprop {
    type State<F: Float> = [F; 2];
    type Hyper<F: Float> = RpropHyper<F>;
    #[inline(always)]
    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 2], h: &RpropHyper<F>) -> F {
        let sign = |x: F| if x == F::zero() { x } else { x.signum() };
        let agreement = sign(e.g) * sign(s[0]);
        let turned = agreement < F::zero();
        let factor = if turned {
            h.shrink
        } else if agreement > F::zero() {
            h.grow
        } else {
            F::one()
        };
        let step_size = (s[1] * factor).max(h.least).min(h.largest);
        let kept = if turned { F::zero() } else { e.g };
        *s = [kept, step_size];
        sign(kept) * step_size
    }
}

impl Rprop {
    fn together(&self) -> Result<(), OptionError> {
        let [least, largest] = self.step_sizes;
        if least > largest {
            return Err(OptionError::new("step_sizes", format!("must be [least, largest], got {:?}", self.step_sizes)));
        }
        Ok(())
    }
}
