//! What goes by lines of a tensor: the unit-wise clip, and means by row and column.

use super::Dense;
use super::passes::{TensorStep, map};
use crate::lines::Lines;
use crate::maths::{average, held};
use crate::step::Plan;
use crate::twin::{Element, condition};

/// Lines that one task adds up.
const TASK: u64 = 1 << 10;

/// Sums of `f` over each line.
fn sums(lines: Lines, f: impl Fn(usize) -> f64 + Send + Sync) -> Vec<f64> {
    let starts: Vec<_> = (0..lines.count).step_by(TASK as usize).collect();
    map(starts, |start| lines.sums(start..(start + TASK).min(lines.count), &f)).concat()
}

impl<F: Element> TensorStep<F> {
    /// The square of an element's gradient as the rule sees it, decay apart.
    fn square(&self, gradient: &[F], element: usize) -> f64 {
        let g = condition(gradient[element], &self.settings).f64() * self.settings.coefficient;
        let factor = self.units.as_ref().map_or(1.0, |(lines, factors)| factors[element % lines.count as usize].f64());
        (g * factor) * (g * factor)
    }
}

/// Finds the factor of each unit's gradient.
pub fn clip_units<F: Element>(dense: &[Dense<'_, F>], plan: &Plan, steps: &mut [TensorStep<F>]) {
    for (d, step) in dense.iter().zip(steps) {
        let Some(lines) = plan.units(d.tensor) else { continue };
        let (gradient, weights) = (d.whole_gradient(), d.weights());
        let of_gradients = sums(lines, |e| step.square(gradient, e));
        let of_weights = sums(lines, |e| weights[e].f64() * weights[e].f64());
        let factor = |(g, p): (&f64, &f64)| F::of(plan.gradient.unit_coefficient(g.sqrt(), p.sqrt()));
        step.units = Some((lines, of_gradients.iter().zip(&of_weights).map(factor).collect()));
    }
}

/// Brings the means by row and column up to this step.
pub fn average_lines<F: Element>(dense: &mut [Dense<'_, F>], plan: &Plan, steps: &mut [TensorStep<F>]) {
    for (d, step) in dense.iter_mut().zip(steps) {
        let Some(matrices) = plan.factored(d.tensor) else { continue };
        let weight = F::of(step.scalars[0]);
        for (lines, place) in [(matrices.row_lines(), 0), (matrices.column_lines(), 1)] {
            let gradient = d.whole_gradient();
            let squares = sums(lines, |e| step.square(gradient, e));
            for (mean, sum) in d.factors[place].iter_mut().zip(squares) {
                *mean = average(*mean, held(sum / lines.length as f64), weight);
            }
        }
        let rows = &d.factors[0];
        let mean = |sum: f64| F::of((sum / matrices.rows as f64).max(step.scalars[1]));
        step.means = sums(matrices.matrix_lines(), |row| rows[row].f64()).into_iter().map(mean).collect();
    }
}
