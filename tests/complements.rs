//! What is near 0 or 1 until f32 rounds it: complements of decays, taken on the host in f64.

mod support;

use support::gpu;
use support::model::{Model, Place};
use support::oracle::Run;
use wgpu_optim::rules::{self, NAdam, ScheduleFreeAdamW, Sgd};
use wgpu_optim::{EmaConfig, OptimizerConfig, Rule, TensorSpec};

/// What a few roundings of f32 leave.
const LIMIT: f64 = 1e-6;

#[track_caller]
fn assert_near(what: &str, found: f64, exact: f64) {
    assert!((found - exact).abs() <= LIMIT * exact.abs(), "{what}: {found:e}, expected {exact:e}");
}

/// The moving average of weights that are 0 in the first step and 1 from then on shows the share of the new ones; of
/// weights that are 1 and then 0, what is kept.
#[test]
fn a_moving_average_takes_the_share_that_its_decay_leaves() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [1])];
    for decay in [1e-3, 0.5, 0.999, 0.9999, 0.999_999, 1.0 - 1e-7, 1.0 - 1e-8, 1.0 - 1e-12] {
        for (warmup, first) in [(false, 0.0), (true, 0.0), (false, 1.0), (true, 1.0)] {
            let ema = EmaConfig { decay, warmup, ..EmaConfig::default() };
            let config = OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).ema(ema);
            let start = [vec![first as f32]];
            let mut model = Model::new(&gpu, &config, &specs, &start, Place::Arena);
            let mut peer = Run::<f32>::new(&config, &specs, &start);
            let mut average = 0.0;
            for step in 1..=6 {
                let gradient = if step == 2 { 2.0 * first as f32 - 1.0 } else { 0.0 };
                model.step(&[vec![gradient]]);
                peer.step(&[Some(vec![gradient])]);
                let n = f64::from(step);
                let kept = if warmup { f64::min(decay, (1.0 + n) / (10.0 + n)) } else { decay };
                average = if step == 1 { first } else { kept * average + (1.0 - kept) * (1.0 - first) };
            }
            let what = format!("decay {decay}, warmup {warmup}, from {first}");
            let found = model.optimizer.state_blocking().unwrap().tensors[0].slots[0].1[0];
            assert_near(&format!("gpu, {what}"), found.into(), average);
            let found = peer.optimizer.state().tensors[0].slots[0].1[0];
            assert_near(&format!("cpu, {what}"), found.into(), average);
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

/// Two scalars of the host's are of one complement: what is kept of an average is no more than a rounding off, however
/// little that is.
#[test]
fn averages_keep_what_small_betas_tell() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [2, 2])];
    // The first with Yogi's moment, which starts from 1, leaves next to nothing.
    let gradients = [1.0 - 2f32.powi(-10), 0.0, 0.5, 0.0];
    for rule in rules::all() {
        let mut config = OptimizerConfig::from_boxed(rule);
        for (key, value) in [
            ("betas", [1e-3; 2].into()),
            ("betas", [1e-3; 3].into()),
            ("beta", 1e-3.into()),
            ("rho", 1e-3.into()),
            ("alpha", 1e-3.into()),
            ("beta2_decay", (-1e-3).into()),
            ("centered", true.into()),
            ("amsgrad", true.into()),
            ("initial_accumulator_value", 1.0.into()),
        ] {
            let _ = config.rule.set_option(key, &value);
        }
        let start = [vec![1.0; 4]];
        let mut model = Model::new(&gpu, &config, &specs, &start, Place::Arena);
        let mut peer = Run::<f32>::new(&config, &specs, &start);
        let mut exact = Run::<f64>::new(&config, &specs, &start);
        for (step, gradient) in gradients.into_iter().enumerate() {
            model.step(&[vec![gradient; 4]]);
            peer.step(&[Some(vec![gradient; 4])]);
            exact.step(&[Some(vec![gradient.into(); 4])]);
            let found = [model.optimizer.state_blocking().unwrap(), peer.optimizer.state()];
            for (k, (name, want)) in exact.optimizer.state().tensors[0].slots.iter().enumerate() {
                // Of a difference to its own average, f32 holds few digits where that takes next to all of it.
                if name == "exp_avg_var" {
                    continue;
                }
                for (backend, state) in ["gpu", "cpu"].iter().zip(&found) {
                    let what = format!("{} {name} on the {backend}, step {step}", config.rule.name());
                    assert_near(&what, state.tensors[0].slots[k].1[0].into(), want[0]);
                }
            }
        }
    }
}

/// What mu leaves of 1 is next to nothing where beta1 is next to 1 and momentum_decay is large: two hundredths of a step
/// are a step's share after fifty.
#[test]
fn products_of_mu_next_to_one_have_their_complement() {
    for left in [1e-3, 1e-9, 1e-12, 1e-15] {
        // As f64 holds it.
        let left = 1.0 - (1.0 - left);
        for momentum_decay in [1e4, 1e6] {
            let rule = NAdam { betas: [1.0 - left, 0.999], momentum_decay, ..NAdam::default() };
            let scalar = |step, name: &str| {
                rule.scalars(step, 1e-3)[rule.scalar_names().iter().position(|own| *own == name).unwrap()]
            };
            for step in [1, 2, 50, 100_000] {
                // (1 - beta) / (1 - beta^step), and beta / (1 - beta^(step + 1))
                let steps = |n: u64| -(n as f64 * (-left).ln_1p()).exp_m1();
                let want = [left / steps(step), (1.0 - left) / steps(step + 1)];
                let found = [scalar(step, "gradient_weight"), scalar(step, "average_weight")];
                for (found, want) in found.into_iter().zip(want) {
                    assert!((found / want - 1.0).abs() < 1e-9, "{left:e}, step {step}: {found:e}, expected {want:e}");
                }
            }
        }
    }
}
