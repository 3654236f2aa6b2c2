//! The f64 oracle beside an f32 run of the same twins, whose own error is the floor that rounding sets: `verify::allowed` says
//! how far.

use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::verify::{allowed, rounding_of};
use wgpu_optim::{CpuFloat, OptimizerConfig, OptimizerState, Report, TensorSpec};

use super::{update_error, wide};

/// Gradients of a step by tensor; `None` has none.
pub type Gradients = Vec<Option<Vec<f32>>>;

/// A CPU run in one number type.
#[derive(Debug)]
pub struct Run<F: CpuFloat> {
    pub optimizer: CpuOptimizer<F>,
    pub params: Vec<Vec<F>>,
    shapes: Vec<Vec<usize>>,
}

impl<F: CpuFloat> Run<F> {
    pub fn new(config: &OptimizerConfig, specs: &[TensorSpec], params: &[Vec<f32>]) -> Self {
        let widen = |p: &Vec<f32>| p.iter().map(|x| F::of(f64::from(*x))).collect();
        Self {
            optimizer: CpuOptimizer::new(config, specs).unwrap(),
            params: params.iter().map(widen).collect(),
            shapes: specs.iter().map(|s| s.shape.iter().map(|n| *n as usize).collect()).collect(),
        }
    }

    /// Other tensors from now on.
    pub fn set_specs(&mut self, specs: &[TensorSpec]) {
        self.shapes = specs.iter().map(|s| s.shape.iter().map(|n| *n as usize).collect()).collect();
    }

    pub fn step(&mut self, gradients: &[Option<Vec<F>>]) -> Report {
        let mut tensors: Vec<_> = self
            .params
            .iter_mut()
            .zip(gradients)
            .zip(&self.shapes)
            .map(|((params, gradient), shape)| CpuTensor {
                params: ArrayViewMutD::from_shape(IxDyn(shape), params).unwrap(),
                gradient: gradient.as_ref().map(|g| ArrayViewD::from_shape(IxDyn(shape), g).unwrap()),
            })
            .collect();
        self.optimizer.step(&mut tensors).unwrap()
    }

    pub fn params_f64(&self) -> Vec<Vec<f64>> {
        self.params.iter().map(|p| p.iter().map(|x| x.f64()).collect()).collect()
    }
}

/// Oracle and peer, stepped together.
#[derive(Debug)]
pub struct Oracle {
    pub exact: Run<f64>,
    pub peer: Run<f32>,
    start: Vec<Vec<f64>>,
    names: Vec<String>,
}

impl Oracle {
    pub fn new(config: &OptimizerConfig, specs: &[TensorSpec], params: &[Vec<f32>]) -> Self {
        Self {
            exact: Run::new(config, specs, params),
            peer: Run::new(config, specs, params),
            start: params.iter().map(|p| wide(p)).collect(),
            names: specs.iter().map(|s| s.name.clone()).collect(),
        }
    }

    pub fn step(&mut self, gradients: &Gradients) -> Report {
        self.peer.step(gradients);
        let exact: Vec<_> = gradients.iter().map(|g| g.as_ref().map(|g| wide(g))).collect();
        self.exact.step(&exact)
    }

    /// A step with gradients that f32 may not hold; the peer gets them rounded.
    pub fn step_exact(&mut self, gradients: &[Option<Vec<f64>>]) -> Report {
        let round = |g: &Vec<f64>| g.iter().map(|x| *x as f32).collect();
        self.peer.step(&gradients.iter().map(|g| g.as_ref().map(round)).collect::<Vec<_>>());
        self.exact.step(gradients)
    }

    /// A step in which every tensor has a gradient.
    pub fn step_all(&mut self, gradients: &[Vec<f32>]) -> Report {
        self.step(&gradients.iter().cloned().map(Some).collect())
    }

    /// Changes a rate on both.
    pub fn set(&mut self, change: impl Fn(&mut dyn Rates)) {
        change(&mut self.exact.optimizer);
        change(&mut self.peer.optimizer);
    }

    /// Every figure over its limit, in words: parameters, slots and counts.
    pub fn misses(&self, params: &[Vec<f32>], state: &OptimizerState) -> Vec<String> {
        let exact = self.exact.params_f64();
        let peer = self.peer.params_f64();
        let expected = self.exact.optimizer.state();
        let steps = expected.steps_taken as usize;
        let mut misses = Vec::new();
        assert_eq!(params.len(), exact.len());
        for t in 0..params.len() {
            let own = both_errors(&peer[t], &exact[t], &self.start[t]);
            let error = both_errors(&wide(&params[t]), &exact[t], &self.start[t]);
            let rounding = rounding_of(&exact[t], &self.start[t], steps);
            report(&mut misses, &self.names[t], error, own, rounding);
        }
        let peer = self.peer.optimizer.state();
        let counts = |s: (u64, u64)| format!("{} taken, {} skipped", s.0, s.1);
        let (got, want) = ((state.steps_taken, state.steps_skipped), (expected.steps_taken, expected.steps_skipped));
        if got != want {
            misses.push(format!("{}, expected {}", counts(got), counts(want)));
        }
        assert_eq!(state.tensors.len(), expected.tensors.len());
        for ((got, want), peer) in state.tensors.iter().zip(&expected.tensors).zip(&peer.tensors) {
            assert_eq!((&got.name, &got.shape, &got.rule), (&want.name, &want.shape, &want.rule));
            if got.steps != want.steps {
                misses.push(format!("{}: {} steps, expected {}", want.name, got.steps, want.steps));
            }
            assert_eq!(got.slots.len(), want.slots.len());
            for (((slot, got), (name, want_values)), (_, peer)) in got.slots.iter().zip(&want.slots).zip(&peer.slots) {
                assert_eq!(slot, name);
                let zero = vec![0.0; want_values.len()];
                let own = both_errors(&wide(peer), want_values, &zero);
                let error = both_errors(&unflushed(got, want_values), want_values, &zero);
                report(&mut misses, &format!("{}.{slot}", want.name), error, own, spacing_of(want_values, steps));
            }
        }
        misses
    }

    /// [`Oracle::misses`] of an optimizer as it is after all that is submitted.
    pub fn check(&self, optimizer: &wgpu_optim::Optimizer, what: &str) {
        let misses = self.misses(&optimizer.params_blocking().unwrap(), &optimizer.state_blocking().unwrap());
        assert!(misses.is_empty(), "{what}: {} misses:\n{}", misses.len(), misses.join("\n"));
    }
}

/// What comes of a spacing of numbers that does not shrink with them: below the normal numbers of f32 it stays 2^-149, of which
/// a step rounds to one and has been given one.
fn spacing_of(reference: &[f64], steps: usize) -> f64 {
    let units: Vec<_> = reference.iter().map(|x| x + 2.0 * steps as f64 * f64::from(f32::from_bits(1))).collect();
    update_error(&units, reference, &vec![0.0; reference.len()])
}

/// The values, with what the device flushed as the oracle has it: WGSL lets a subnormal number be zero.
fn unflushed(values: &[f32], reference: &[f64]) -> Vec<f64> {
    let flushed = |got: f32, want: f64| got == 0.0 && want.abs() < f64::from(f32::MIN_POSITIVE);
    let each = |(got, want): (&f32, &f64)| if flushed(*got, *want) { *want } else { f64::from(*got) };
    values.iter().zip(reference).map(each).collect()
}

/// The update measure over the tensor, and the same with the largest element instead of the norm, so
/// that one wrong element of many does not hide.
fn both_errors(out: &[f64], reference: &[f64], start: &[f64]) -> [f64; 2] {
    // NaN stays: `max` would drop it.
    let largest = |pairs: &mut dyn Iterator<Item = f64>| {
        pairs.map(f64::abs).fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
    };
    let off = largest(&mut out.iter().zip(reference).map(|(a, b)| a - b));
    let moved = largest(&mut reference.iter().zip(start).map(|(a, b)| a - b));
    [update_error(out, reference, start), if off == 0.0 { 0.0 } else { off / moved }]
}

fn report(misses: &mut Vec<String>, what: &str, errors: [f64; 2], peer: [f64; 2], rounding: f64) {
    for (error, peer) in errors.into_iter().zip(peer) {
        let allowed = allowed(peer, rounding);
        // NaN is a miss too, and a peer that failed allows nothing.
        let within = error <= allowed && peer.is_finite();
        if !within {
            misses.push(format!("{what}: {error:.3e} over {allowed:.3e}"));
            return;
        }
    }
}

/// The rates that can change at run time, on either number type.
pub trait Rates {
    fn set_lr(&mut self, lr: f64);
    fn set_group_lr(&mut self, pattern: &str, lr: f64);
    fn set_group_weight_decay(&mut self, pattern: &str, lambda: f64);
}

impl<F: CpuFloat> Rates for CpuOptimizer<F> {
    fn set_lr(&mut self, lr: f64) {
        CpuOptimizer::set_lr(self, lr).unwrap();
    }
    fn set_group_lr(&mut self, pattern: &str, lr: f64) {
        CpuOptimizer::set_group_lr(self, pattern, lr).unwrap();
    }
    fn set_group_weight_decay(&mut self, pattern: &str, lambda: f64) {
        CpuOptimizer::set_group_weight_decay(self, pattern, lambda).unwrap();
    }
}
