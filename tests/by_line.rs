//! What goes by lines of tensors, on the GPU against the oracle: the unit-wise clip and Adafactor's means
//! by row and column, alone and together, accumulated, split over windows, and with tensors that miss
//! steps.

mod support;

use support::model::{Model, PLACES, Place};
use support::oracle::Oracle;
use support::{Numbers, gpu};
use wgpu_optim::rules::{Adafactor, AdamW};
use wgpu_optim::wgpu::{self, Limits};
use wgpu_optim::{Error, Gpu, GradientConfig, LossScale, OptimizerConfig, TensorSpec};

fn adaptive() -> GradientConfig {
    GradientConfig { clip_adaptive: Some(0.05), ..GradientConfig::default() }
}

fn adafactor() -> OptimizerConfig {
    OptimizerConfig::new(Adafactor { lr: 0.05, weight_decay: 0.1, ..Adafactor::default() })
}

fn specs() -> Vec<TensorSpec> {
    let shapes: [&[u64]; 6] = [&[600, 301], &[3, 3, 40, 8], &[5], &[33, 1], &[2, 70, 90], &[7, 5000]];
    shapes.iter().map(|shape| TensorSpec::new(format!("t{shape:?}"), shape.to_vec())).collect()
}

fn draw(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    // Units of one tensor from 2^-12 to 1, so that the clip takes some and leaves others.
    let size = |i: usize| ((i % 13) as f32 - 12.0).exp2();
    specs.iter().map(|s| (0..s.elements().unwrap() as usize).map(|i| numbers.next() * size(i)).collect()).collect()
}

/// Four micro-batches or steps against the oracle.
fn check(gpu: &Gpu, config: &OptimizerConfig, specs: &[TensorSpec], place: Place) -> Model {
    let params: Vec<Vec<f32>> = draw(specs, 1).into_iter().map(|p| p.iter().map(|x| x / 32.0).collect()).collect();
    let mut model = Model::new(gpu, config, specs, &params, place);
    let mut oracle = Oracle::new(config, specs, &params);
    for step in 0..4 {
        let gradients = draw(specs, 10 + step);
        model.step(&gradients);
        oracle.step_all(&gradients);
    }
    oracle.check(&model.optimizer, &format!("{place:?} {config:?}"));
    model.assert_guards();
    model
}

#[test]
fn clip_and_means_follow_the_oracle_wherever_tensors_lie() {
    let gpu = gpu();
    let together = adafactor().gradient(GradientConfig { clip_value: Some(0.4), ..adaptive() });
    let accumulated = GradientConfig { accumulate: 2, loss_scale: Some(LossScale::Fixed(64.0)), ..adaptive() };
    let specs = specs();
    for place in PLACES {
        check(&gpu, &adafactor(), &specs, place);
        check(&gpu, &adafactor().clip_global_norm(0.3), &specs, place);
        check(&gpu, &OptimizerConfig::new(AdamW::default()).gradient(adaptive()), &specs, place);
        check(&gpu, &together, &specs, place);
        check(&gpu, &adafactor().gradient(accumulated.clone()), &specs, place);
    }
}

#[test]
fn lines_go_on_over_the_ends_of_windows() {
    let adapter = pollster::block_on(wgpu_optim::gpu::adapters()).into_iter().next().expect("an adapter");
    let required_limits = Limits { max_storage_buffer_binding_size: 1 << 20, ..Limits::default() };
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device with low limits");
    let gpu = Gpu::new(device, queue);
    let accumulated = GradientConfig { accumulate: 2, ..adaptive() };
    let specs = [TensorSpec::new("long", [700, 601]), TensorSpec::new("b", [5])];
    for place in [Place::Arena, Place::TwoBuffers] {
        let model = check(&gpu, &adafactor().gradient(accumulated.clone()), &specs, place);
        let layout = model.optimizer.layout();
        let pieces = layout.windows.iter().flat_map(|w| &w.runs).flat_map(|r| &r.pieces);
        assert!(pieces.filter(|p| p.tensor == 0).count() >= 2, "the first tensor is in one piece");
    }
}

/// Tensors that miss steps keep their means and their own counts.
#[test]
fn means_of_tensors_that_miss_steps_stay() {
    let gpu = gpu();
    let specs = specs();
    let params = draw(&specs, 3);
    let config = adafactor().gradient(adaptive());
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::TwoBuffers);
    let mut oracle = Oracle::new(&config, &specs, &params);
    for step in 0..6 {
        let gradients: Vec<_> = draw(&specs, 20 + step)
            .into_iter()
            .enumerate()
            .map(|(t, g)| ((t as u64 + step) % 3 != 1).then_some(g))
            .collect();
        model.step_some(&gradients);
        oracle.step(&gradients);
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "with gaps");
}

/// A skipped step leaves the means as they are.
#[test]
fn a_skipped_step_changes_no_mean() {
    let gpu = gpu();
    let specs = specs();
    let mut model = Model::new(&gpu, &adafactor(), &specs, &draw(&specs, 3), Place::Arena);
    model.step(&draw(&specs, 4));
    let before = model.bits();
    let mut bad = draw(&specs, 5);
    bad[4][100] = f32::NAN;
    model.step(&bad);
    assert_eq!(model.bits(), before);
    assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_skipped, 1);
}

/// Optax knows no units of a tensor of six dimensions.
#[test]
fn units_of_six_dimensions_are_refused() {
    let specs = [TensorSpec::new("w", [2; 6])];
    let config = OptimizerConfig::new(AdamW::default()).gradient(adaptive());
    let error = wgpu_optim::plan::Plan::new(&config, &specs).unwrap_err();
    assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "w"), "{error}");
    assert!(error.to_string().contains("at most 5 dimensions"), "{error}");
}

/// A gradient whose square leaves f32 does not stay for good.
#[test]
fn means_of_huge_gradients_stay_finite() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [3, 4])];
    let params = vec![Numbers::new(1).take(12)];
    let mut model = Model::new(&gpu, &adafactor(), &specs, &params, Place::Arena);
    let mut oracle = Oracle::new(&adafactor(), &specs, &params);
    for size in [1.0, 1e22, 1.0, 1.0] {
        let gradients = vec![Numbers::new(2).take(12).into_iter().map(|g| g * size).collect::<Vec<_>>()];
        model.step(&gradients);
        oracle.step_all(&gradients);
        let state = model.optimizer.state_blocking().unwrap();
        let peer = oracle.peer.optimizer.state();
        for (slot, values) in state.tensors.iter().chain(&peer.tensors).flat_map(|t| &t.slots) {
            assert!(values.iter().all(|x| x.is_finite()), "{slot} after {size:e}: {values:?}");
        }
        assert!(model.params().iter().chain(&oracle.peer.params).flatten().all(|x| x.is_finite()));
    }
}

/// Gradients whose squares leave f32: units keep their factors.
#[test]
fn units_of_huge_and_tiny_gradients_are_clipped() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [64, 4])];
    let params = vec![Numbers::new(1).take(256)];
    let config = OptimizerConfig::new(AdamW { eps: 1e-30, ..AdamW::default() }).gradient(adaptive());
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
    let mut oracle = Oracle::new(&config, &specs, &params);
    let mut numbers = Numbers::new(2);
    let scales = [1e25, 1.0, 1e-12, 1e-14];
    let gradients: Vec<Vec<f32>> = vec![(0..256).map(|i| numbers.next() * scales[i % 4]).collect()];
    model.step(&gradients);
    oracle.step_all(&gradients);
    oracle.check(&model.optimizer, "huge and tiny");
}
