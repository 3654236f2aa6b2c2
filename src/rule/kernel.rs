//! A rule's update of one block of elements, as the CPU backend calls it.

use std::any::TypeId;

use super::float::Float;
use super::hyper::Scalars;
use crate::lines::{Lines, Matrices};
use crate::storage::Noise;

/// What the engine does around the rule for every element of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct UpdateSettings {
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
    /// Whether the rule takes any gradient.
    pub any_gradient: bool,
    /// The step's share in the average of the iterates, for rules that ask for it.
    pub share: Option<f64>,
    /// Limit of each parameter.
    pub weight_clip: Option<f64>,
    /// Noise after the step: its random bits, and what times the root of the rate is its size.
    pub noise: Option<(Noise, f64)>,
}

/// Gradients as they are, and no step.
impl Default for UpdateSettings {
    fn default() -> Self {
        Self {
            lr: 0.0,
            coupled: 0.0,
            lr_decoupled: 0.0,
            in_ratio: 0.0,
            sign: 1.0,
            unscale: 1.0,
            coefficient: 1.0,
            clip_value: None,
            zero_nonfinite: false,
            cautious: None,
            norms: None,
            elements: 0.0,
            any_gradient: false,
            share: None,
            weight_clip: None,
            noise: None,
        }
    }
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
    pub settings: UpdateSettings,
    /// What goes by lines of the tensor.
    pub by_line: ByLine<'a, F>,
}

/// What a block reads that goes by lines of its tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// What a mean square by rows and columns ends at: where a row and a column of huge gradients cross, their product can
/// leave f32.
const LARGEST_MEAN_SQUARE: f64 = (1u128 << 127) as f64;

/// A mean square by rows and columns.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    pub(crate) fn at(&self, element: u64) -> F {
        let row = element / self.matrices.columns;
        let matrix = row / self.matrices.rows;
        let column = matrix * self.matrices.columns + element % self.matrices.columns;
        let of_row = self.rows[row as usize] / self.means[matrix as usize];
        let of_column = self.columns[column as usize];
        let most = F::of(LARGEST_MEAN_SQUARE) / of_row.max(F::one());
        of_row * if of_column > most { most } else { of_column }
    }
}

/// A rule's update of one block on the CPU. Every [`Twin`](super::twin::Twin) is one, and nothing else.
pub trait CpuKernel {
    /// Which rule it is: no other crate can give its own the type of another, whatever it calls itself.
    fn type_of_rule(&self) -> TypeId;
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

/// A number type that the CPU backend computes in: `f32` or `f64`.
pub trait CpuFloat: Float {
    /// Runs the kernel's update for this type.
    fn update(kernel: &dyn CpuKernel, block: Block<'_, Self>);
    /// Runs the kernel's measure for this type.
    fn measure(kernel: &dyn CpuKernel, block: Block<'_, Self>) -> Measure;
    /// Runs the kernel's evaluation for this type.
    fn evaluate(kernel: &dyn CpuKernel, block: Block<'_, Self>);
}

impl CpuFloat for f32 {
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

impl CpuFloat for f64 {
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
