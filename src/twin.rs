//! The CPU twin of `shaders/update.wgsl`: a rule's maths for one element, and what the engine does
//! around it.

use crate::float::Float;
use crate::hyper::{HyperRow, Scalars};
use crate::lines::{Lines, Matrices};
use crate::maths::{average, square};

/// Slots of state a rule may keep for each element.
pub const MAX_SLOTS: usize = 4;

/// The CPU twin of a rule's WGSL: the same maths in the same order, for one element.
pub trait Twin: Sync {
    /// An array of all slots: `[F; 2]`.
    type State<F: Float>: SlotArray<F>;
    /// The scalars with their names, from [`hyper!`](crate::hyper!).
    type Hyper<F: Float>: HyperRow<F>;

    /// The direction u for a parameter `p` with gradient `g`; the state is updated in place.
    fn direction<F: Float>(&self, p: F, g: F, s: &mut Self::State<F>, h: &Self::Hyper<F>) -> F;

    /// What multiplies the step of a tensor, from the norms of its parameters and of its update. Only
    /// rules that ask for [`Reduction::UpdateNorm`](crate::Reduction::UpdateNorm) have one.
    fn ratio<F: Float>(&self, _norms: &Norms<F>, _h: &Self::Hyper<F>) -> F {
        F::one()
    }

    /// What is subtracted from p, from lr·ratio·u. Likewise.
    fn finish<F: Float>(&self, step: F, _s: &mut Self::State<F>, _h: &Self::Hyper<F>) -> F {
        step
    }

    /// What is subtracted from p, from lr·u and the step's share in the average of the iterates. Only
    /// rules that ask for [`Reduction::Average`](crate::Reduction::Average) have one.
    fn averaged<F: Float>(&self, _p: F, step: F, _share: F, _s: &mut Self::State<F>, _h: &Self::Hyper<F>) -> F {
        step
    }

    /// The weight to evaluate with. Likewise.
    fn evaluated<F: Float>(&self, p: F, _s: &Self::State<F>, _h: &Self::Hyper<F>) -> F {
        p
    }
}

/// What a rule's ratio is made of. In WGSL a struct of that name, all `f32`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norms<F> {
    /// ‖p‖.
    pub p: F,
    /// ‖u‖.
    pub u: F,
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

/// What the engine does around the rule for every element of a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around {
    /// What multiplies the direction.
    pub lr: f64,
    /// λ of coupled decay, else 0.
    pub coupled: f64,
    /// λ of decoupled decay times the learning rate, else 0.
    pub lr_decoupled: f64,
    /// λ of decay within the measured update, else 0.
    pub in_ratio: f64,
    /// −1 where the rule should maximise, else 1.
    pub sign: f64,
    /// What multiplies gradients as they are read.
    pub unscale: f64,
    /// What the norm clip or normalising multiplies the gradient with.
    pub coefficient: f64,
    /// Limit of each gradient element.
    pub clip_value: Option<f64>,
    /// Non-finite gradient elements count as zero.
    pub zero_nonfinite: bool,
    /// How much further the kept elements of a cautious mask move; `None` has no mask.
    pub cautious: Option<f64>,
    /// Norms of the tensor's parameters and update, for rules that ask for them.
    pub norms: Option<[f64; 2]>,
    /// The tensor's elements.
    pub elements: f64,
    /// The step's share in the average of the iterates, for rules that ask for it.
    pub share: Option<f64>,
    /// Limit of each parameter.
    pub weight_clip: Option<f64>,
}

/// What a block's update adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measure {
    /// Squares of the parameters.
    pub params: f64,
    /// Squares of the update.
    pub update: f64,
    /// Elements whose direction agrees with the gradient in sign.
    pub kept: u64,
}

/// A run of elements of one tensor, for a [`CpuKernel`].
pub struct Block<'a, F> {
    /// Parameters, updated.
    pub params: &'a mut [F],
    /// Gradients as the caller gave them.
    pub gradients: &'a [F],
    /// The active slots in order, updated; each as long as the parameters.
    pub slots: Vec<&'a mut [F]>,
    /// Which of all the rule's slots the active ones are.
    pub active: &'a [usize],
    /// The rule's scalars of this step.
    pub scalars: &'a Scalars,
    /// The engine's part.
    pub around: Around,
    /// What goes by lines of the tensor.
    pub by_line: ByLine<'a, F>,
}

/// What a block reads that goes by lines of its tensor.
#[derive(Debug, Clone, Copy)]
pub struct ByLine<'a, F> {
    /// The block's first element.
    pub first: u64,
    /// The factor of each unit's gradients.
    pub units: Option<(Lines, &'a [F])>,
    /// Which of the rule's slots is the mean square.
    pub mean_square: Option<usize>,
    /// What it is made of where it is not kept by element.
    pub factors: Option<Factors<'a, F>>,
}

impl<F> Default for ByLine<'_, F> {
    fn default() -> Self {
        Self { first: 0, units: None, mean_square: None, factors: None }
    }
}

/// A mean square by rows and columns.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a, F> {
    /// The tensor's shape.
    pub matrices: Matrices,
    /// Mean of each row.
    pub rows: &'a [F],
    /// Mean of each column.
    pub columns: &'a [F],
    /// Mean of each matrix's rows, at least the rule's floor.
    pub means: &'a [F],
}

impl<F: Float> Factors<'_, F> {
    /// The mean square of an element.
    fn at(&self, element: u64) -> F {
        let row = element / self.matrices.columns;
        let matrix = row / self.matrices.rows;
        let column = matrix * self.matrices.columns + element % self.matrices.columns;
        self.rows[row as usize] / self.means[matrix as usize] * self.columns[column as usize]
    }
}

/// A rule's update of one block on the CPU. Every [`Twin`] is one.
pub trait CpuKernel {
    /// Updates in f32.
    fn update_f32(&self, block: Block<'_, f32>);
    /// Updates in f64.
    fn update_f64(&self, block: Block<'_, f64>);
    /// Measures in f32; changes nothing.
    fn measure_f32(&self, block: Block<'_, f32>) -> Measure;
    /// Measures in f64; changes nothing.
    fn measure_f64(&self, block: Block<'_, f64>) -> Measure;
    /// Replaces the parameters by those to evaluate with, in f32. Without averaged iterates they are.
    fn evaluate_f32(&self, _block: Block<'_, f32>) {}
    /// Replaces the parameters by those to evaluate with, in f64. Likewise.
    fn evaluate_f64(&self, _block: Block<'_, f64>) {}
}

impl<T: Twin> CpuKernel for T {
    fn update_f32(&self, block: Block<'_, f32>) {
        dispatch::<T, f32, false>(self, block);
    }
    fn update_f64(&self, block: Block<'_, f64>) {
        dispatch::<T, f64, false>(self, block);
    }
    fn measure_f32(&self, block: Block<'_, f32>) -> Measure {
        dispatch::<T, f32, true>(self, block)
    }
    fn measure_f64(&self, block: Block<'_, f64>) -> Measure {
        dispatch::<T, f64, true>(self, block)
    }
    fn evaluate_f32(&self, block: Block<'_, f32>) {
        evaluate(self, block);
    }
    fn evaluate_f64(&self, block: Block<'_, f64>) {
        evaluate(self, block);
    }
}

/// A number type that the CPU backend computes in: `f32` or `f64`.
pub trait Element: Float {
    /// Runs the kernel's update for this type.
    fn update(kernel: &dyn CpuKernel, block: Block<'_, Self>);
    /// Runs the kernel's measure for this type.
    fn measure(kernel: &dyn CpuKernel, block: Block<'_, Self>) -> Measure;
    /// Runs the kernel's evaluation for this type.
    fn evaluate(kernel: &dyn CpuKernel, block: Block<'_, Self>);
}

impl Element for f32 {
    fn update(kernel: &dyn CpuKernel, block: Block<'_, Self>) {
        kernel.update_f32(block);
    }
    fn measure(kernel: &dyn CpuKernel, block: Block<'_, Self>) -> Measure {
        kernel.measure_f32(block)
    }
    fn evaluate(kernel: &dyn CpuKernel, block: Block<'_, Self>) {
        kernel.evaluate_f32(block);
    }
}

impl Element for f64 {
    fn update(kernel: &dyn CpuKernel, block: Block<'_, Self>) {
        kernel.update_f64(block);
    }
    fn measure(kernel: &dyn CpuKernel, block: Block<'_, Self>) -> Measure {
        kernel.measure_f64(block)
    }
    fn evaluate(kernel: &dyn CpuKernel, block: Block<'_, Self>) {
        kernel.evaluate_f64(block);
    }
}

/// Elements whose state is gathered at a time: small enough for registers and the first cache.
const LANES: usize = 64;

fn clamp<F: Float>(x: F, limit: F) -> F {
    // Not `Float::min`, which would turn NaN into the limit.
    if x > limit {
        limit
    } else if x < -limit {
        -limit
    } else {
        x
    }
}

/// The gradient as the norm sees it: unscaled, non-finite elements zeroed where asked, then clipped by value.
#[inline(always)]
pub(crate) fn condition<F: Float>(g: F, around: &Around) -> F {
    let g = if around.zero_nonfinite && !g.is_finite() { F::zero() } else { g * F::of(around.unscale) };
    match around.clip_value {
        Some(limit) => clamp(g, F::of(limit)),
        None => g,
    }
}

/// [`run`] with the widest vectors that this processor has and that pay. No instruction set changes a
/// bit: nothing is contracted or reordered.
fn dispatch<T: Twin, F: Float, const MEASURE: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    let around = &block.around;
    let plain = !MEASURE && around.cautious.is_none() && around.share.is_none() && around.weight_clip.is_none();
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        return match plain {
            true => wide::<T, F, MEASURE, true>(rule, block),
            false => wide::<T, F, MEASURE, false>(rule, block),
        };
    }
    match plain {
        true => run::<T, F, MEASURE, true>(rule, block),
        false => run::<T, F, MEASURE, false>(rule, block),
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the only way to build one function for a wider instruction set")]
fn wide<T: Twin, F: Float, const MEASURE: bool, const PLAIN: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    #[target_feature(enable = "avx2")]
    fn avx2<T: Twin, F: Float, const MEASURE: bool, const PLAIN: bool>(rule: &T, block: Block<'_, F>) -> Measure {
        run::<T, F, MEASURE, PLAIN>(rule, block)
    }
    // SAFETY: `dispatch` calls this only where the processor has AVX2. That its results are those of
    // `run` is tested below.
    unsafe { avx2::<T, F, MEASURE, PLAIN>(rule, block) }
}

/// Updates a block, or measures what its update would add up to. `PLAIN` has no mask, no share and no limit of
/// weights: without those tests the loop over elements becomes vectors.
#[inline(always)]
fn run<T: Twin, F: Float, const MEASURE: bool, const PLAIN: bool>(rule: &T, block: Block<'_, F>) -> Measure {
    let Block { params, gradients, mut slots, active, scalars, around, by_line } = block;
    let h = T::Hyper::<F>::from_row(scalars);
    let mut lr = F::of(around.lr);
    if let Some([p_norm, u_norm]) = around.norms {
        let norms = Norms { p: F::of(p_norm), u: F::of(u_norm), elements: F::of(around.elements), lr };
        lr = lr * rule.ratio(&norms, &h);
    }
    if let Some(growth) = around.cautious {
        lr = F::of(around.lr * growth);
    }
    let lr_decoupled = F::of(around.lr_decoupled);
    let coupled = F::of(around.coupled);
    let in_ratio = F::of(around.in_ratio);
    let sign = F::of(around.sign);
    // Two factors where one leaves f32, as in the shader.
    let exponent = if around.coefficient == 0.0 { 0.0 } else { around.coefficient.log2().floor() };
    let exponent = if exponent.abs() < 126.0 { 0.0 } else { exponent.clamp(-126.0, 126.0) };
    let scale = F::of(exponent.exp2());
    let coefficient = F::of(around.coefficient / exponent.exp2());
    let conditioned = around.clip_value.is_some() || around.zero_nonfinite || around.unscale != 1.0;
    // Slots that are off read as zero, and what the rule writes there is dropped.
    let mut lanes = [[F::zero(); LANES]; MAX_SLOTS];
    let mut gs = [F::zero(); LANES];
    let mut measure = Measure::default();

    for (index, (params, gradients)) in params.chunks_mut(LANES).zip(gradients.chunks(LANES)).enumerate() {
        let range = index * LANES..index * LANES + params.len();
        for (slot, &which) in slots.iter().zip(active) {
            lanes[which][..params.len()].copy_from_slice(&slot[range.clone()]);
        }
        if conditioned {
            gs.iter_mut().zip(gradients).for_each(|(to, g)| *to = condition(*g, &around));
        } else {
            gs[..gradients.len()].copy_from_slice(gradients);
        }
        gs.iter_mut().for_each(|g| *g = *g * scale * coefficient);
        let first = by_line.first + range.start as u64;
        if let Some((lines, factors)) = by_line.units {
            for (g, element) in gs[..params.len()].iter_mut().zip(first..) {
                *g = *g * factors[(element % lines.count) as usize];
            }
        }
        for (g, p) in gs.iter_mut().zip(&*params) {
            *g = sign * *g + coupled * *p;
        }
        if let Some(slot) = by_line.mean_square {
            let weight = F::of(scalars[0]);
            for (i, g) in gs[..params.len()].iter().enumerate() {
                lanes[slot][i] = match &by_line.factors {
                    Some(factors) => factors.at(first + i as u64),
                    None => average(lanes[slot][i], square(*g), weight),
                };
            }
        }
        for (i, (p, &g)) in params.iter_mut().zip(&gs).enumerate() {
            let mut state = T::State::<F>::from_fn(|k| lanes[k][i]);
            let u = rule.direction(*p, g, &mut state, &h) + in_ratio * *p;
            let agrees = !PLAIN && ((u > F::zero() && g > F::zero()) || (u < F::zero() && g < F::zero()));
            if MEASURE {
                measure.params += p.f64() * p.f64();
                measure.update += u.f64() * u.f64();
                measure.kept += u64::from(agrees);
                continue;
            }
            let u = if !PLAIN && around.cautious.is_some() && !agrees { F::zero() } else { u };
            let step = match around.share {
                Some(share) if !PLAIN => rule.averaged(*p, lr * u, F::of(share), &mut state, &h),
                _ => rule.finish(lr * u, &mut state, &h),
            };
            for (lane, value) in lanes.iter_mut().zip(state.as_slice()) {
                lane[i] = *value;
            }
            *p = *p - (step + lr_decoupled * *p);
            if let Some(limit) = around.weight_clip.filter(|_| !PLAIN) {
                *p = clamp(*p, F::of(limit));
            }
        }
        if !MEASURE {
            for (slot, &which) in slots.iter_mut().zip(active) {
                slot[range.clone()].copy_from_slice(&lanes[which][..params.len()]);
            }
        }
    }
    measure
}

/// Replaces parameters by those to evaluate with.
fn evaluate<T: Twin, F: Float>(rule: &T, block: Block<'_, F>) {
    let h = T::Hyper::<F>::from_row(block.scalars);
    for (i, p) in block.params.iter_mut().enumerate() {
        let value = |slot| block.active.iter().position(|a| *a == slot).map_or(F::zero(), |at| block.slots[at][i]);
        *p = rule.evaluated(*p, &T::State::<F>::from_fn(value), &h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rule;
    use crate::rules::AdamW;

    #[test]
    fn wide_vectors_change_no_bit() {
        let rule = AdamW { amsgrad: true, ..AdamW::default() };
        // An odd length; magnitudes from 1e-20 to 1e16, both signs.
        let values = |seed: f32| -> Vec<f32> {
            (0..1001).map(|i| ((i as f32 * seed).sin()) * 10f32.powi(i % 37 - 20)).collect()
        };
        let around = Around {
            lr: 1e-3,
            coupled: 0.1,
            lr_decoupled: 1e-5,
            in_ratio: 0.0,
            sign: -1.0,
            unscale: 0.25,
            coefficient: 0.7,
            clip_value: Some(1e9),
            zero_nonfinite: true,
            cautious: Some(1.5),
            norms: None,
            elements: 1001.0,
            share: None,
            weight_clip: Some(1e10),
        };
        let scalars = rule.scalars(3);
        let outcome = |around: Around, f: fn(&AdamW, Block<'_, f32>) -> Measure| {
            let mut params = values(0.3);
            let mut slots = [values(0.7), values(1.1), values(1.3)];
            slots[1..].iter_mut().flatten().for_each(|v| *v = v.abs());
            let block = Block {
                params: &mut params,
                gradients: &values(2.1),
                slots: slots.iter_mut().map(Vec::as_mut_slice).collect(),
                active: &[0, 1, 2],
                scalars: &scalars,
                around,
                by_line: ByLine::default(),
            };
            let measure = f(&rule, block);
            let bits: Vec<u32> = slots.iter().flatten().chain(&params).map(|x| x.to_bits()).collect();
            (bits, measure)
        };
        assert_eq!(outcome(around, dispatch::<AdamW, f32, false>), outcome(around, run::<AdamW, f32, false, false>));
        assert_eq!(outcome(around, dispatch::<AdamW, f32, true>), outcome(around, run::<AdamW, f32, true, false>));
        // Neither does leaving out the tests of what is not asked for.
        let around = Around { cautious: None, weight_clip: None, ..around };
        assert_eq!(outcome(around, dispatch::<AdamW, f32, false>), outcome(around, run::<AdamW, f32, false, false>));
    }
}
