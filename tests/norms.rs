//! Norms at the ends of what a number can be, and of nothing.

mod support;

use support::gpu;
use support::model::{Model, Place};
use support::oracle::Run;
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{GradientConfig, Group, HealthConfig, OptimizerConfig, TensorSpec, WeightsConfig};

fn sgd(set: impl FnOnce(&mut GradientConfig)) -> OptimizerConfig {
    let mut gradient = GradientConfig::default();
    set(&mut gradient);
    OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).gradient(gradient)
}

#[test]
fn the_norm_of_no_gradients_is_zero_without_a_sign() {
    let specs = [TensorSpec::new("w", [3])];
    let config = sgd(|g| g.clip_global_norm = Some(1.0)).group(Group::matching("*").frozen());
    let mut run = Run::<f32>::new(&config, &specs, &[vec![1.0; 3]]);
    let on_cpu = run.step(&[Some(vec![1.0; 3])]).global_norm.unwrap();
    assert_eq!(on_cpu.to_bits(), 0);
    let mut model = Model::new(&gpu(), &config, &specs, &[vec![1.0; 3]], Place::Arena);
    model.step(&[vec![1.0; 3]]);
    let on_gpu = model.optimizer.wait_for_report().unwrap().unwrap().global_norm.unwrap();
    assert_eq!(on_gpu.to_bits(), 0);
    // Nor has that of tensors of which none has a gradient.
    let config = sgd(|g| g.clip_global_norm = Some(1.0));
    let mut run = Run::<f64>::new(&config, &specs, &[vec![1.0; 3]]);
    assert_eq!(run.step(&[None]).global_norm.unwrap().to_bits(), 0);
}

#[test]
fn in_f64_gradients_can_be_as_large_and_small_as_f64_goes() {
    let specs = [TensorSpec::new("w", [5000]), TensorSpec::new("v", [2, 3])];
    let root = (5006f64).sqrt();
    let near = |found: f64, want: f64| assert!((found / want - 1.0).abs() < 1e-12, "{found:e}, expected {want:e}");
    for size in [1e200, 1e300, 1.0, 1e-200, 1e-300] {
        let gradients = [Some(vec![size; 5000]), Some(vec![size; 6])];
        let run = |config: &OptimizerConfig| {
            let mut run = Run::<f64>::new(config, &specs, &[vec![0.0; 5000], vec![0.0; 6]]);
            let watched = HealthConfig { interval: 1, ..HealthConfig::default() };
            run.optimizer.set_health(Some(watched)).unwrap();
            let report = run.step(&gradients);
            near(run.optimizer.health().unwrap().tensors[0].gradient_norm, size * 5000f64.sqrt());
            (report, run.params)
        };
        let (report, params) = run(&sgd(|g| g.normalize_global_norm = Some(1.0)));
        near(report.global_norm.unwrap(), size * root);
        params.iter().flatten().for_each(|p| near(-p, 1.0 / root));
        if size < 1.0 {
            continue;
        }
        let (report, params) = run(&sgd(|g| g.clip_global_norm = Some(1e-3)));
        near(report.clip_coefficient, 1e-3 / (size * root + 1e-6));
        near(-params[0][0], 1e-3 / root / (1.0 + 1e-6 / (size * root)));
        let (_, params) = run(&sgd(|g| g.clip_tensor_norm = Some(1e-3)));
        near(-params[0][0], 1e-3 / 5000f64.sqrt() / (1.0 + 1e-6 / (size * 5000f64.sqrt())));
        let (_, params) = run(&sgd(|g| g.clip_adaptive = Some(0.5)));
        // Weights of zero count as 1e-3; a unit is a vector, or a column.
        near(-params[0][0], 0.5e-3 / 5000f64.sqrt());
        near(-params[1][0], 0.5e-3 / 2f64.sqrt());
    }
}

/// Under a rule that leaves them where they are, not at the largest f32.
#[test]
fn weights_in_f64_are_limited_by_a_norm_whose_square_leaves_it() {
    let specs = [TensorSpec::new("w", [4])];
    let weights = WeightsConfig { max_norm: Some(1.0), ..WeightsConfig::default() };
    let config = OptimizerConfig::new(AdamW { weight_decay: 0.0, ..AdamW::default() }).weights(weights);
    let mut run = Run::<f64>::new(&config, &specs, &[vec![0.0; 4]]);
    run.params[0] = vec![1e200; 4];
    run.step(&[Some(vec![0.0; 4])]);
    run.params[0].iter().for_each(|p| assert!((p - 0.5).abs() < 1e-12, "{p}"));
}
