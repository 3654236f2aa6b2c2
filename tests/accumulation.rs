//! Micro-batches and loss scales: a step over k micro-batches is one step with their mean, a scaled
//! loss changes nothing but what overflows, and both follow what the device really did.

mod support;

use ndarray::Array1;
use support::model::{Model, PLACES, Place};
use support::oracle::{Gradients, Oracle, Run};
use support::{Numbers, encoder, gpu, own_gpu, submit};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Plateau;
use wgpu_optim::{
    DynamicScale, EmaConfig, GradientConfig, HealthConfig, LossScale, OptimizerConfig, OptimizerState, TensorSpec,
    WeightsConfig, rules,
};

const SIZES: [u64; 4] = [1, 7, 4100, 300];

fn specs() -> Vec<TensorSpec> {
    SIZES.iter().map(|n| TensorSpec::new(format!("t{n}"), [*n])).collect()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    SIZES.iter().map(|n| numbers.take(*n as usize)).collect()
}

fn parameters() -> Vec<Vec<f32>> {
    values(1).into_iter().map(|p| p.into_iter().map(|x| x / 32.0).collect()).collect()
}

fn config(accumulate: u64) -> OptimizerConfig {
    let mut config = OptimizerConfig::new(AdamW { weight_decay: 0.1, ..AdamW::default() }).clip_global_norm(1.0);
    config.gradient.accumulate = accumulate;
    config
}

fn dynamic(config: OptimizerConfig) -> OptimizerConfig {
    let scale = DynamicScale { init: 1024.0, growth_interval: 3, ..DynamicScale::default() };
    let mut config = config;
    config.gradient.loss_scale = Some(LossScale::Dynamic(scale));
    config
}

fn model(config: &OptimizerConfig, place: Place) -> Model {
    Model::new(&gpu(), config, &specs(), &parameters(), place)
}

/// Every k-th set of sums over k micro-batches, as the mean in f64.
fn mean(batches: &[Vec<Vec<f32>>]) -> Vec<Option<Vec<f64>>> {
    let k = batches.len() as f64;
    let element = |t: usize, i: usize| batches.iter().map(|b| f64::from(b[t][i])).sum::<f64>() / k;
    (0..SIZES.len()).map(|t| Some((0..SIZES[t] as usize).map(|i| element(t, i)).collect())).collect()
}

#[test]
fn micro_batches_are_one_step_with_their_mean() {
    for place in PLACES {
        for k in [2u64, 5] {
            let mut model = model(&config(k), place);
            let mut oracle = Oracle::new(&config(1), &specs(), &parameters());
            for step in 0..4 {
                let batches: Vec<_> = (0..k).map(|batch| values(100 + 10 * step + batch)).collect();
                for (index, batch) in batches.iter().enumerate() {
                    let before = model.params();
                    model.step(batch);
                    let report = model.optimizer.wait_for_report().unwrap().unwrap();
                    let last = index as u64 + 1 == k;
                    assert_eq!(report.steps_taken, step + u64::from(last));
                    assert_eq!(report.accumulated, if last { 0 } else { index as u64 + 1 });
                    assert_eq!(model.params() != before, last, "{place:?} {index} of {k}");
                }
                oracle.step_exact(&mean(&batches));
            }
            // The plan differs by `accumulate` alone, and a state between two steps does not show it.
            let mut state = model.optimizer.state_blocking().unwrap();
            let kept: Vec<_> = oracle.exact.optimizer.state().tensors[0].slots.iter().map(|s| s.0.clone()).collect();
            state.tensors.iter_mut().for_each(|t| t.slots.retain(|(name, _)| kept.contains(name)));
            assert_eq!(oracle.misses(&model.params(), &state), Vec::<String>::new(), "{place:?} {k}");
            model.assert_guards();
        }
    }
}

#[test]
fn micro_batches_in_one_encoder_equal_those_in_their_own() {
    let mut apart = model(&config(3), Place::OneBuffer);
    apart.write_gradients(&values(5));
    (0..7).for_each(|_| apart.submit());
    let mut together = model(&config(3), Place::OneBuffer);
    together.write_gradients(&values(5));
    submit(&gpu(), |encoder| (0..7).for_each(|_| together.optimizer.step(encoder).unwrap()));
    assert_eq!(apart.bits(), together.bits());
    assert_eq!(together.optimizer.wait_for_report().unwrap().unwrap().accumulated, 1);
}

#[test]
fn a_dropped_micro_batch_leaves_no_trace() {
    let mut plain = model(&config(2), Place::Arena);
    let mut model = model(&config(2), Place::Arena);
    for step in 0..6 {
        plain.step(&values(20 + step));
        model.write_gradients(&values(90));
        let mut dropped = encoder(&gpu());
        (0..step + 1).for_each(|_| model.optimizer.step(&mut dropped).unwrap());
        drop(dropped.finish());
        model.step(&values(20 + step));
    }
    assert_eq!(model.bits(), plain.bits());
}

#[test]
fn a_nonfinite_micro_batch_skips_its_step_and_no_other() {
    let gpu = gpu();
    for place in PLACES {
        let mut model = model(&config(3), place);
        let mut oracle = Oracle::new(&config(3), &specs(), &parameters());
        for batch in 0..21 {
            let mut gradients = values(40 + batch);
            if batch % 9 == 4 {
                gradients[2][4099] = f32::NAN;
            }
            model.step(&gradients);
            let want = oracle.step_all(&gradients);
            let got = model.optimizer.wait_for_report().unwrap().unwrap();
            let summary =
                |r: &wgpu_optim::Report| (r.steps_taken, r.steps_skipped, r.skipped, r.nonfinite, r.accumulated);
            assert_eq!(summary(&got), summary(&want), "{place:?} {batch}");
        }
        assert_eq!(oracle.exact.optimizer.state().steps_skipped, 2);
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
    drop(gpu);
}

/// Which tensors have a gradient in a micro-batch.
fn some(batch: u64) -> Gradients {
    let masks = [0b1111u64, 0b1101, 0b0111, 0b1111, 0b0000, 0b1110, 0b0011];
    let mask = masks[batch as usize % masks.len()];
    values(60 + batch).into_iter().enumerate().map(|(t, g)| (mask >> t & 1 == 1).then_some(g)).collect()
}

#[test]
fn missing_gradients_of_micro_batches_mean_the_same_on_both_backends() {
    for place in PLACES {
        let mut model = model(&config(2), place);
        let mut oracle = Oracle::new(&config(2), &specs(), &parameters());
        for batch in 0..24 {
            model.step_some(&some(batch));
            oracle.step(&some(batch));
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
}

#[test]
fn a_loss_scale_that_grows_and_backs_off_changes_no_step() {
    for place in PLACES {
        let mut model = model(&dynamic(config(1)), place);
        let mut oracle = Oracle::new(&dynamic(config(1)), &specs(), &parameters());
        let mut plain = Oracle::new(&config(1), &specs(), &parameters());
        let mut scale = 1024.0f32;
        let mut seen = Vec::new();
        for step in 0..30 {
            let mut gradients: Vec<Vec<f32>> =
                values(70 + step).iter().map(|g| g.iter().map(|x| scale * x).collect()).collect();
            let bad = matches!(step, 4 | 5 | 17);
            if bad {
                gradients[0][0] = f32::INFINITY;
            } else {
                plain.step_all(&values(70 + step));
            }
            model.step(&gradients);
            let want = oracle.step_all(&gradients);
            let got = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((got.skipped, got.loss_scale), (want.skipped, want.loss_scale), "{place:?} step {step}");
            scale = got.loss_scale as f32;
            seen.push(scale);
        }
        assert!(seen.contains(&512.0) && seen.iter().any(|s| *s > 2048.0), "{seen:?}");
        oracle.check(&model.optimizer, &format!("{place:?}"));
        // Powers of two: not a bit of the steps taken differs but for what the scale itself rounds.
        let mut state = model.optimizer.state_blocking().unwrap();
        (state.steps_skipped, state.loss_scale, state.good_steps) = (0, 1.0, 0);
        assert_eq!(plain.misses(&model.params(), &state), Vec::<String>::new());
    }
}

/// Everything that has a state of its own.
fn everything() -> OptimizerConfig {
    let mut config = dynamic(config(3)).ema(EmaConfig { decay: 0.9, warmup: true, interval: 2 }).schedule(Plateau {
        factor: 0.5,
        patience: 0,
        ..Plateau::default()
    });
    config.gradient.clip_value = Some(500.0);
    config
}

#[test]
fn a_state_saved_between_micro_batches_goes_on_to_the_same_bits() {
    let run = |model: &mut Model, batches: std::ops::Range<u64>| {
        for batch in batches {
            let mut gradients = values(200 + batch);
            if batch == 10 {
                gradients[3][299] = f32::NAN;
            }
            model.step(&gradients);
            if batch % 3 == 2 {
                model.optimizer.report_loss(1.0 + (batch % 4) as f64).unwrap();
            }
        }
    };
    for cut in [4, 6, 11, 20] {
        let mut straight = model(&everything(), Place::Arena);
        run(&mut straight, 0..30);
        let mut first = model(&everything(), Place::Arena);
        run(&mut first, 0..cut);
        let bytes = first.optimizer.state_blocking().unwrap().to_safetensors().unwrap();
        let mut second = Model::new(&gpu(), &everything(), &specs(), &first.params(), Place::Arena);
        let state = OptimizerState::from_safetensors(&bytes, second.optimizer.plan()).unwrap();
        assert_eq!(state.micro_batches, cut % 3);
        second.optimizer.load_state(&state).unwrap();
        run(&mut second, cut..30);
        assert_eq!(second.bits(), straight.bits(), "cut after {cut}");
        let state = |model: &Model| model.optimizer.state_blocking().unwrap();
        assert_eq!(state(&second), state(&straight));
    }
}

#[test]
fn a_state_with_a_loss_scale_that_cannot_be_is_refused() {
    let mut model = model(&everything(), Place::Arena);
    let good = model.optimizer.state_blocking().unwrap();
    for scale in [0.0, -1024.0, f64::NAN, f64::INFINITY, 1e-30, 1e30] {
        let mut bad = good.clone();
        bad.loss_scale = scale;
        let error = model.optimizer.load_state(&bad).expect_err(&format!("a loss scale of {scale}"));
        assert!(error.to_string().contains("loss scale"), "{error}");
    }
    let mut bad = good.clone();
    bad.micro_batches = 3;
    assert!(model.optimizer.load_state(&bad).unwrap_err().to_string().contains("micro-batches"));
    model.optimizer.load_state(&good).unwrap();
}

#[test]
fn a_fixed_loss_scale_is_the_configurations() {
    let fixed = |scale: f64| {
        let mut config = config(1);
        config.gradient.loss_scale = Some(LossScale::Fixed(scale));
        config
    };
    let scaled =
        |scale: f32| -> Vec<Vec<f32>> { values(400).iter().map(|g| g.iter().map(|x| scale * x).collect()).collect() };
    let mut saved = model(&fixed(1024.0), Place::Arena);
    saved.step(&scaled(1024.0));
    let state = saved.optimizer.state_blocking().unwrap();
    let mut on_gpu = Model::new(&gpu(), &fixed(8.0), &specs(), &saved.params(), Place::Arena);
    on_gpu.optimizer.load_state(&state).unwrap();
    let mut on_cpu = Run::<f32>::new(&fixed(8.0), &specs(), &saved.params());
    on_cpu.optimizer.load_state(&state).unwrap();
    assert_eq!(on_gpu.optimizer.state_blocking().unwrap().loss_scale, 8.0);
    saved.step(&scaled(1024.0));
    on_gpu.step(&scaled(8.0));
    assert_eq!(on_gpu.bits(), saved.bits());
    let report = on_cpu.step(&scaled(8.0).into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!(report.loss_scale, 8.0);
    let norm = saved.optimizer.wait_for_report().unwrap().unwrap().global_norm.unwrap();
    assert!((report.global_norm.unwrap() - norm).abs() < 1e-6 * norm);
}

#[test]
fn every_pass_stays_between_the_guard_words() {
    for rule in rules::all() {
        let weights = WeightsConfig { clip_value: Some(0.5), max_norm: Some(0.1), ..WeightsConfig::default() };
        let mut config = OptimizerConfig::from_boxed(rule).weights(weights).ema(EmaConfig::default());
        config.gradient.accumulate = 2;
        config.gradient.clip_tensor_norm = Some(1.0);
        for place in [Place::TwoBuffers, Place::OneBuffer] {
            let mut model = model(&config, place);
            model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
            model.optimizer.set_zero_gradients(true).unwrap();
            (0..4).for_each(|batch| model.step(&values(300 + batch)));
            submit(&gpu(), |encoder| model.optimizer.swap_ema(encoder).unwrap());
            assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_taken, 2);
            model.assert_guards();
        }
    }
}

#[test]
fn reports_between_micro_batches_say_what_the_cpus_say() {
    let specs = [TensorSpec::new("w", [40])];
    for normalize in [false, true] {
        let limit = Some(1e-3);
        let gradient = match normalize {
            true => GradientConfig { normalize_global_norm: limit, accumulate: 2, ..GradientConfig::default() },
            false => GradientConfig { clip_global_norm: limit, accumulate: 2, ..GradientConfig::default() },
        };
        let config = OptimizerConfig::new(AdamW::default()).gradient(gradient);
        let mut model = Model::new(&gpu(), &config, &specs, &[vec![1.0; 40]], Place::Arena);
        let mut on_cpu = CpuOptimizer::<f32>::new(&config, &specs).unwrap();
        let (mut w, g) = (Array1::<f32>::ones(40).into_dyn(), Array1::<f32>::ones(40).into_dyn());
        for batch in 0..4 {
            model.step(&[vec![1.0; 40]]);
            let found = model.optimizer.wait_for_report().unwrap().unwrap();
            let expected = on_cpu.step(&mut [CpuTensor::new(w.view_mut(), g.view())]).unwrap();
            assert_eq!(found.accumulated, expected.accumulated);
            assert_eq!(found.global_norm.is_some(), expected.global_norm.is_some(), "batch {batch}");
            let error = found.clip_coefficient / expected.clip_coefficient - 1.0;
            assert!(error.abs() < 1e-6, "batch {batch}: {} for {}", found.clip_coefficient, expected.clip_coefficient);
        }
    }
}

/// Micro-batches come in numbers that their reports have no room for.
#[test]
fn a_look_after_each_step_finds_its_report_and_its_health() {
    let specs = [TensorSpec::new("w", [40])];
    // Another thread that polls the same device may be about to run the callbacks of what has arrived.
    let gpu = own_gpu();
    for (accumulate, apart) in [(3, false), (16, false), (16, true), (100, false)] {
        let mut config = OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0);
        config.gradient.accumulate = accumulate;
        let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0; 40]], Place::Arena);
        model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
        model.write_gradients(&[vec![1.0; 40]]);
        for step in 1..=20 {
            match apart {
                true => (0..accumulate).for_each(|_| model.submit()),
                false => {
                    submit(&gpu, |encoder| (0..accumulate).for_each(|_| model.optimizer.step(encoder).unwrap()));
                }
            }
            gpu.device().poll(wgpu_optim::wgpu::PollType::wait_indefinitely()).unwrap();
            let report = model.optimizer.report().unwrap().expect("a report");
            assert_eq!((report.steps_taken, report.accumulated), (step, 0), "of {accumulate}");
            assert_eq!(report.global_norm.map(|norm| norm.round()), Some(40f64.sqrt().round()));
            assert_eq!(model.optimizer.health().unwrap().map(|h| h.steps_taken), Some(step), "of {accumulate}");
        }
        // A step under way does not take the place of the last whole one, but for who waits for it.
        model.submit();
        let waited = model.optimizer.wait_for_report().unwrap().unwrap();
        assert_eq!((waited.steps_taken, waited.accumulated), (20, 1));
        let report = model.optimizer.report().unwrap().unwrap();
        assert_eq!((report.steps_taken, report.accumulated), (20, 0));
    }
}
