//! The CPU twin of a rule's WGSL: its maths for one element.

use super::float::Float;
use super::hyper::HyperRow;

/// Slots of state a rule may keep for each element.
pub const MAX_SLOTS: usize = 4;

/// What a rule's maths sees of one element. The engine makes it, and members may join it; in WGSL a struct of that name,
/// of four elements.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Element<F> {
    /// The parameter before the step.
    pub p: F,
    /// The gradient as the rule sees it; 0 where the step is over.
    pub g: F,
}

impl<F> Element<F> {
    #[inline(always)]
    pub(crate) fn new(p: F, g: F) -> Self {
        Self { p, g }
    }
}

/// The CPU twin of a rule's WGSL: the same maths in the same order, for one element.
pub trait Twin: Sync + 'static {
    /// An array of all slots: `[F; 2]`.
    type State<F: Float>: SlotArray<F>;
    /// The scalars with their names, from [`hyper!`](crate::hyper!).
    type Hyper<F: Float>: HyperRow<F>;

    /// The direction u of an element; the state is updated in place.
    fn direction<F: Float>(&self, e: Element<F>, s: &mut Self::State<F>, h: &Self::Hyper<F>) -> F;

    /// What multiplies the step of a tensor, from the norms of its parameters and of its update. Only
    /// rules that ask for [`Reduction::UpdateNorm`](crate::rule::Reduction::UpdateNorm) have one.
    fn ratio<F: Float>(&self, _norms: &Norms<F>, _h: &Self::Hyper<F>) -> F {
        F::one()
    }

    /// What is subtracted from e.p, from lr·ratio·u. Likewise.
    fn finish<F: Float>(&self, _e: Element<F>, step: F, _s: &mut Self::State<F>, _h: &Self::Hyper<F>) -> F {
        step
    }

    /// What is subtracted from e.p, from lr·u and the step's share in the average of the iterates. Only
    /// rules that ask for [`Reduction::Average`](crate::rule::Reduction::Average) have one.
    fn averaged<F: Float>(
        &self,
        _e: Element<F>,
        step: F,
        _share: F,
        _s: &mut Self::State<F>,
        _h: &Self::Hyper<F>,
    ) -> F {
        step
    }

    /// The weight to evaluate with, without a gradient. Likewise.
    fn evaluated<F: Float>(&self, e: Element<F>, _s: &Self::State<F>, _h: &Self::Hyper<F>) -> F {
        e.p
    }
}

/// What a rule's ratio is made of. In WGSL a struct of that name, all `f32`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Norms<F> {
    /// ‖p‖.
    pub params: F,
    /// ‖u‖.
    pub update: F,
    /// The tensor's elements.
    pub elements: F,
    /// The learning rate of the step, which multiplies the ratio.
    pub lr: F,
}

/// An array of slots, `[F; N]`.
pub trait SlotArray<F>: Copy {
    /// How many slots.
    const LEN: usize;
    /// The array that `f` fills.
    fn from_fn(f: impl FnMut(usize) -> F) -> Self;
    /// The values.
    fn as_slice(&self) -> &[F];
}

impl<F: Copy, const N: usize> SlotArray<F> for [F; N] {
    const LEN: usize = N;
    #[inline(always)]
    fn from_fn(f: impl FnMut(usize) -> F) -> Self {
        std::array::from_fn(f)
    }
    #[inline(always)]
    fn as_slice(&self) -> &[F] {
        self
    }
}
