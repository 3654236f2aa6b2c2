//! What is near 0 or 1 until f32 rounds it: complements of decays, taken on the host in f64.

mod support;

use support::gpu;
use support::model::{Model, Place};
use support::oracle::Run;
use wgpu_optim::rules::{ScheduleFreeAdamW, Sgd};
use wgpu_optim::{EmaConfig, OptimizerConfig, TensorSpec};

/// What a few roundings of f32 leave.
const LIMIT: f64 = 1e-6;

#[track_caller]
fn assert_near(what: &str, found: f64, exact: f64) {
    assert!((found - exact).abs() <= LIMIT * exact.abs(), "{what}: {found:e}, expected {exact:e}");
}

/// The moving average of weights that are 0 in the first step and 1 from then on shows the share of the new ones.
#[test]
fn a_moving_average_takes_the_share_that_its_decay_leaves() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [1])];
    for decay in [0.5, 0.999, 0.9999, 0.999_999, 1.0 - 1e-7, 1.0 - 1e-8, 1.0 - 1e-12] {
        for warmup in [false, true] {
            let ema = EmaConfig { decay, warmup, ..EmaConfig::default() };
            let config = OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).ema(ema);
            let mut model = Model::new(&gpu, &config, &specs, &[vec![0.0]], Place::Arena);
            let mut peer = Run::<f32>::new(&config, &specs, &[vec![0.0]]);
            let mut average = 0.0;
            for step in 1..=6 {
                let gradient = if step == 2 { -1.0 } else { 0.0 };
                model.step(&[vec![gradient]]);
                peer.step(&[Some(vec![gradient])]);
                let n = f64::from(step);
                let kept = if warmup { f64::min(decay, (1.0 + n) / (10.0 + n)) } else { decay };
                average = if step == 1 { 0.0 } else { kept * average + (1.0 - kept) };
            }
            let found = model.optimizer.state_blocking().unwrap().tensors[0].slots[0].1[0];
            assert_near(&format!("gpu, decay {decay}, warmup {warmup}"), found.into(), average);
            let found = peer.optimizer.state().tensors[0].slots[0].1[0];
            assert_near(&format!("cpu, decay {decay}, warmup {warmup}"), found.into(), average);
        }
    }
}

/// With a step whose share in the average is next to nothing, y takes 1 - beta1 of z's step.
#[test]
fn schedule_free_steps_take_the_share_that_beta1_leaves() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [1])];
    for beta1 in [0.9, 0.999, 0.9999, 0.99999] {
        let config =
            OptimizerConfig::new(ScheduleFreeAdamW { lr: 1.0, betas: [beta1, 0.5], ..ScheduleFreeAdamW::default() });
        let start = [vec![0.0]];
        let mut model = Model::new(&gpu, &config, &specs, &start, Place::Arena);
        let mut peer = Run::<f32>::new(&config, &specs, &start);
        let mut exact = Run::<f64>::new(&config, &specs, &start);
        for (lr, gradient) in [(1.0, 0.0), (1e-4, 1.0)] {
            // The first step weighs in at the largest rate, and moves nothing.
            model.optimizer.set_lr(lr).unwrap();
            peer.optimizer.set_lr(lr).unwrap();
            exact.optimizer.set_lr(lr).unwrap();
            model.step(&[vec![gradient]]);
            peer.step(&[Some(vec![gradient])]);
            exact.step(&[Some(vec![gradient.into()])]);
        }
        let want = exact.params[0][0];
        assert_near(&format!("gpu, beta1 {beta1}"), model.params()[0][0].into(), want);
        assert_near(&format!("cpu, beta1 {beta1}"), peer.params[0][0].into(), want);
    }
}
