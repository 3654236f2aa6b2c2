//! What goes by lines of a tensor: the unit-wise clip, and means by row and column.

use super::Dense;
use super::parallel::map;
use super::tasks::TensorStep;
use super::update::condition;
use crate::lines::Lines;
use crate::plan::Plan;
use crate::rule::kernel::CpuFloat;
use crate::rule::maths::{LARGEST_SEEN, average, bounded};

/// Lines that one task adds up.
const TASK: u64 = 1 << 10;

/// Sums of `f` over each line.
fn sums(lines: Lines, f: impl Fn(usize) -> f64 + Send + Sync) -> Vec<f64> {
    let starts: Vec<_> = (0..lines.count).step_by(TASK as usize).collect();
    map(starts, |start| lines.sums(start..(start + TASK).min(lines.count), &f)).concat()
}

/// The norm of `f`, whose values are `F`s, over each line. Where the largest square leaves f64, all are scaled first.
fn norms<F: CpuFloat>(lines: Lines, elements: usize, f: impl Fn(usize) -> f64 + Send + Sync) -> Vec<f64> {
    let can_leave = size_of::<F>() > size_of::<f32>();
    let looked_at = if can_leave { elements } else { 0 };
    let largest = (0..looked_at).fold(0.0, |largest, e| f64::max(largest, f(e).abs()));
    let exponent = if largest > 0.0 && largest < f64::INFINITY { largest.log2() as i32 } else { 0 };
    let scale = if exponent.abs() < 400 { 1.0 } else { 2f64.powi(-exponent) };
    let square = |e| (f(e) * scale) * (f(e) * scale);
    sums(lines, square).into_iter().map(|sum| sum.sqrt() / scale).collect()
}

impl<F: CpuFloat> TensorStep<F> {
    /// An element's gradient before it is clipped by unit.
    fn gradient(&self, gradient: &[F], element: usize) -> f64 {
        condition(gradient[element], &self.settings).f64() * self.settings.coefficient
    }

    /// The square of an element's gradient as the rule sees it, decay apart.
    fn square(&self, gradient: &[F], element: usize) -> f64 {
        let g = self.gradient(gradient, element);
        let factor = self.units.as_ref().map_or(1.0, |(lines, factors)| factors[element % lines.count as usize].f64());
        let seen = bounded(g * factor, LARGEST_SEEN);
        seen * seen
    }
}

/// Finds the factor of each unit's gradient.
pub fn clip_units<F: CpuFloat>(dense: &[Dense<'_, F>], plan: &Plan, steps: &mut [TensorStep<F>]) {
    for (d, step) in dense.iter().zip(steps) {
        let Some(lines) = plan.units(d.tensor) else { continue };
        let (gradient, weights) = (d.whole_gradient(), d.weights());
        let of_gradients = norms::<F>(lines, gradient.len(), |e| step.gradient(gradient, e));
        let of_weights = norms::<F>(lines, weights.len(), |e| weights[e].f64());
        let factor = |(g, p): (&f64, &f64)| F::of(plan.gradient.unit_coefficient(*g, *p));
        step.units = Some((lines, of_gradients.iter().zip(&of_weights).map(factor).collect()));
    }
}

/// Brings the means by row and column up to this step.
pub fn average_lines<F: CpuFloat>(dense: &mut [Dense<'_, F>], plan: &Plan, steps: &mut [TensorStep<F>]) {
    for (d, step) in dense.iter_mut().zip(steps) {
        let Some(matrices) = plan.factored(d.tensor) else { continue };
        let [beta, weight] = [step.scalars[0], step.scalars[1]].map(F::of);
        for (lines, place) in [(matrices.row_lines(), 0), (matrices.column_lines(), 1)] {
            let gradient = d.whole_gradient();
            let squares = sums(lines, |e| step.square(gradient, e));
            for (mean, sum) in d.factors[place].iter_mut().zip(squares) {
                *mean = average(*mean, F::of(sum / lines.length as f64), beta, weight);
            }
        }
        let rows = &d.factors[0];
        let mean = |sum: f64| F::of((sum / matrices.rows as f64).max(step.scalars[2]));
        step.means = sums(matrices.matrix_lines(), |row| rows[row].f64()).into_iter().map(mean).collect();
    }
}
