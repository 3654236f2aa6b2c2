//! Steps of what is not stored in f32: each by itself, from the same stored numbers on both sides. Over many
//! steps one rounding that goes the other way would drown what there is to see.

use super::runs::{GpuRun, Inputs, Values, arrays, collect, wide};
use super::{Finding, SAME_NOISE};
use crate::config::OptimizerConfig;
use crate::cpu::{CpuOptimizer, CpuTensor};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::plan::Plan;
use crate::rule::kernel::CpuFloat;
use crate::state::OptimizerState;
use crate::storage::{Format, Q8_BLOCK, StateFormat, code_table};
use crate::tensor::TensorSpec;

/// How far a stored number may be off, in steps from one number of its format to the next: what lies just
/// beside a tie may go either way.
const ALLOWED: f64 = 1.01;

/// One element of so many, and one more, may be excused by the CPU's own f32 step. Among special values 3 of 16 are zero or
/// next to it, where a sign hangs on a rounding.
const EDGES: usize = 4;

/// What f32 arithmetic may be off besides, of a value and of the tensor's largest.
const ARITHMETIC: [f64; 2] = [1e-5, 1e-6];

/// The worst of all steps, by parameters and slots, in steps of the storage.
pub fn compare(gpu: &Gpu, config: &OptimizerConfig, inputs: &Inputs) -> Result<Vec<Finding>> {
    let Inputs { specs, params, gradients } = inputs;
    let plan = Plan::new(config, specs)?;
    let mut run = GpuRun::new(gpu, config, specs, params)?;
    let mut findings: Vec<Finding> = Vec::new();
    for gradients in gradients {
        let (before, state) = run.read()?;
        let exact = stored_step::<f64>(config, specs, &before, &state, gradients)?;
        let peer = stored_step::<f32>(config, specs, &before, &state, gradients)?;
        run.step(gradients)?;
        let (after, state) = run.read()?;
        let after = after.iter().map(|p| wide(p)).collect();
        for ((found, exact), peer) in collect(after, state).iter().zip(&exact).zip(&peer) {
            let grid = Grid::of(&plan, exact);
            let error = grid.error(&found.values, &exact.values.values, &peer.values.values);
            let tensor = &specs[found.tensor].name;
            match findings.iter_mut().find(|f| f.what == found.what && f.tensor == *tensor) {
                // NaN stays.
                Some(known) if known.error.is_nan() || known.error >= error => {}
                Some(known) => known.error = error,
                None => {
                    let (what, tensor) = (found.what.clone(), tensor.clone());
                    findings.push(Finding { what, tensor, error, allowed: ALLOWED });
                }
            }
        }
    }
    Ok(findings)
}

/// Values of a CPU's step, and the scales of those in q8.
struct Stepped {
    values: Values,
    scales: Vec<f32>,
}

fn stored_step<F: CpuFloat + Into<f64>>(
    config: &OptimizerConfig,
    specs: &[TensorSpec],
    params: &[Vec<f32>],
    state: &OptimizerState,
    gradients: &[Vec<f32>],
) -> Result<Vec<Stepped>> {
    let mut optimizer = CpuOptimizer::<F>::new(config, specs)?;
    optimizer.load_state(&state.map(|x| F::of(f64::from(*x))))?;
    let mut params = arrays::<F>(specs, params);
    let gradients = arrays::<F>(specs, gradients);
    let tensors = params.iter_mut().zip(&gradients).map(|(p, g)| CpuTensor::new(p.view_mut(), g.view()));
    optimizer.step(&mut tensors.collect::<Vec<_>>())?;
    let state = optimizer.state();
    let scales: Vec<_> = state.tensors.iter().map(|t| t.storage.clone()).collect();
    let values = collect(params.iter().map(|p| p.iter().map(|x| (*x).into()).collect()).collect(), state);
    let exact = values.into_iter().map(|values| {
        let own = scales.get(values.tensor).and_then(|slots| slots.iter().find(|s| s.slot == values.what));
        Stepped { scales: own.map_or(Vec::new(), |own| own.scales.clone()), values }
    });
    Ok(exact.collect())
}

/// How values are stored, and so how far apart neighbours are.
enum Grid<'a> {
    Float(Format),
    Codes { signed: bool, scales: &'a [f32] },
}

impl<'a> Grid<'a> {
    fn of(plan: &Plan, exact: &'a Stepped) -> Self {
        let Values { what, tensor, .. } = &exact.values;
        if what == "parameters" {
            return Self::Float(plan.formats_of(*tensor)[0]);
        }
        match plan.slot_storage(*tensor).into_iter().find(|s| s.slot == *what) {
            Some(own) if own.format == StateFormat::Q8 => Self::Codes { signed: own.signed, scales: &exact.scales },
            Some(_) => Self::Float(Format::Bf16),
            None => Self::Float(Format::F32),
        }
    }

    /// From a number to the next, at that value.
    fn step(&self, element: usize, value: f64) -> f64 {
        match self {
            Self::Float(format) => {
                let bits = format.bits(value.abs() as f32);
                f64::from(format.value(bits + 1)) - f64::from(format.value(bits))
            }
            Self::Codes { signed, scales } => {
                let (table, scale) = (code_table(*signed), f64::from(scales[element / Q8_BLOCK as usize]));
                let above = table.values.partition_point(|x| f64::from(*x) * scale < value);
                let gap = |code: usize| match (table.values.get(code), table.values.get(code + 1)) {
                    (Some(low), Some(high)) => f64::from(high - low) * scale,
                    _ => 0.0,
                };
                gap(above).max(gap(above.saturating_sub(1)))
            }
        }
    }

    /// The worst element, in steps, beside what arithmetic explains: what f32 may be off in general, and what the CPU is
    /// off in f32. That tells elements at an edge of their rule, such as those whose sign Lion takes where its average is
    /// zero but for rounding. They are the lesser part: where they are not, the rule is unstable in f32, and nothing is excused.
    fn error(&self, found: &[f64], exact: &[f64], peer: &[f64]) -> f64 {
        let largest = exact.iter().fold(0.0f64, |a, x| a.max(x.abs()));
        let beyond = |(i, (found, exact)): (usize, (&f64, &f64)), excused: f64| {
            let arithmetic = ARITHMETIC[0] * exact.abs() + ARITHMETIC[1] * largest + excused;
            let off = (found - exact).abs();
            if off <= arithmetic { 0.0 } else { (off - arithmetic) / self.step(i, *exact) }
        };
        let elements = || found.iter().zip(exact).enumerate();
        let own = |i: usize| SAME_NOISE * (peer[i] - exact[i]).abs();
        let at_an_edge = elements().filter(|(i, pair)| own(*i) > 0.0 && beyond((*i, *pair), 0.0) > ALLOWED).count();
        let few = at_an_edge * EDGES <= found.len() + EDGES;
        let errors = elements().map(|(i, pair)| beyond((i, pair), if few { own(i) } else { 0.0 }));
        errors.fold(0.0, |worst: f64, error| if error > worst || error.is_nan() { error } else { worst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_excuses_a_few_elements_and_no_more() {
        let grid = Grid::Float(Format::Bf16);
        let exact = vec![1.0; 300];
        let step = grid.step(0, 1.0);
        let off = |count: usize, by: f64| -> Vec<f64> {
            (0..300).map(|i| 1.0 + if i < count { by * step } else { 0.0 }).collect()
        };
        let passes = |found: &[f64], peer: &[f64]| grid.error(found, &exact, peer) <= ALLOWED;
        assert!(passes(&off(300, 1.0), &exact));
        assert!(!passes(&off(1, 2.0), &exact));
        // At an edge, the CPU goes the other way too.
        assert!(passes(&off(3, 20.0), &off(3, 20.0)));
        assert!(!passes(&off(3, 50.0), &off(3, 20.0)));
        assert!(passes(&off(56, 20.0), &off(56, 20.0)));
        assert!(!passes(&off(80, 20.0), &off(80, 20.0)));
        let mut nan = exact.clone();
        nan[299] = f64::NAN;
        assert!(!passes(&nan, &exact) && !passes(&nan, &nan));
    }
}
