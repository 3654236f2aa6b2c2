//! Noise after steps: which numbers it has, where it comes in, and what it makes of a run.

mod support;

use support::model::{Model, Place};
use support::oracle::Run;
use support::{Numbers, gpu};
use wgpu_optim::rules::{AdamW, Lion, Rprop, ScheduleFreeAdamW, Sgd};
use wgpu_optim::schedule::Exponential;
use wgpu_optim::storage::{noise_key, pcg4d};
use wgpu_optim::{
    Format, Group, NoiseConfig, OptimizerConfig, Rounding, StateFormat, StorageConfig, TensorSpec, WeightsConfig,
};

/// A rate and a temperature of whose noise the size is 1.
fn unit() -> OptimizerConfig {
    let rule = Sgd { lr: 0.5, ..Sgd::default() };
    OptimizerConfig::new(rule).noise(NoiseConfig { temperature: 1.0, seed: 3 })
}

/// Past a block, within a vector, and a matrix.
fn specs() -> Vec<TensorSpec> {
    vec![TensorSpec::new("a", [5001]), TensorSpec::new("b", [3]), TensorSpec::new("c", [71, 61])]
}

fn filled(specs: &[TensorSpec], value: f32) -> Vec<Vec<f32>> {
    specs.iter().map(|spec| vec![value; spec.elements().unwrap() as usize]).collect()
}

fn some<T: Clone>(gradients: &[Vec<T>]) -> Vec<Option<Vec<T>>> {
    gradients.iter().cloned().map(Some).collect()
}

/// The share of N(0, 1) below z: by its series.
fn below(z: f64) -> f64 {
    let (mut term, mut sum) = (z, z);
    for k in 1..120 {
        term *= z * z / f64::from(2 * k + 1);
        sum += term;
    }
    0.5 + sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The share below the number that an element gets, by the published key.
fn uniform(seed: u64, name: &str, steps: u32, element: usize) -> f64 {
    let key = noise_key(seed, name);
    let bits = |stream| pcg4d([element as u32 / 4, key, steps, stream])[element % 4];
    // None of the streams that round.
    assert!((0..8).all(|stream| bits(stream) != bits(u32::MAX)));
    (f64::from(bits(u32::MAX) >> 8) + 0.5) / f64::from(1 << 24)
}

#[test]
fn numbers_follow_seed_name_count_and_element_on_both_sides() {
    for seed in [3, 4] {
        let mut config = unit();
        config.noise.as_mut().unwrap().seed = seed;
        // Rounding has a seed of its own.
        config.storage.seed = 9;
        let (specs, zeros) = (specs(), filled(&specs(), 0.0));
        let mut model = Model::new(&gpu(), &config, &specs, &zeros, Place::OneBuffer);
        let mut cpu = Run::<f32>::new(&config, &specs, &zeros);
        let mut exact = Run::<f64>::new(&config, &specs, &zeros);
        for steps in 0..2 {
            // From zero, so that the weights are the numbers.
            model.write_params(&zeros);
            cpu.params.iter_mut().flatten().for_each(|p| *p = 0.0);
            exact.params.iter_mut().flatten().for_each(|p| *p = 0.0);
            // `b` misses the first step, and so has a count of its own.
            let has = |t: usize| steps == 1 || t != 1;
            let gradients: Vec<_> = zeros.iter().enumerate().map(|(t, g)| has(t).then(|| g.clone())).collect();
            model.step_some(&gradients);
            cpu.step(&gradients);
            exact.step(&gradients.iter().map(|g| g.as_ref().map(|g| support::wide(g))).collect::<Vec<_>>());
            let found = model.params();
            for (t, spec) in specs.iter().enumerate() {
                if !has(t) {
                    assert!(found[t].iter().chain(&cpu.params[t]).all(|p| *p == 0.0));
                    continue;
                }
                let count = if t == 1 { 0 } else { steps };
                for (i, z) in found[t].iter().enumerate() {
                    let (single, double) = (cpu.params[t][i], exact.params[t][i]);
                    let what = format!("{}[{i}] of step {steps}: {z}, {single} and {double}", spec.name);
                    assert!((z - single).abs() <= 8.0 * f32::EPSILON * single.abs(), "{what}");
                    assert!((f64::from(*z) - double).abs() <= 2e-6 * double.abs(), "{what}");
                    let share = uniform(seed, &spec.name, count, i);
                    assert!((below(double) - share).abs() < 4e-7, "{what}, share {share}");
                }
            }
        }
        model.assert_guards();
    }
}

#[test]
fn steps_that_are_skipped_or_not_complete_have_none() {
    let mut config = unit();
    config.gradient.accumulate = 2;
    let (specs, start) = (specs(), filled(&specs(), 1.0));
    let run = |batches: &[f32]| {
        let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Arena);
        let mut cpu = Run::<f32>::new(&config, &specs, &start);
        let mut all = Vec::new();
        for gradient in batches {
            let gradients = filled(&specs, *gradient);
            model.step(&gradients);
            cpu.step(&some(&gradients));
            all.push([model.params(), cpu.params.clone()]);
        }
        all
    };
    let skipping = run(&[0.0, f32::NAN, 0.0, 0.0]);
    for sides in &skipping[..3] {
        assert!(sides.iter().all(|params| *params == start));
    }
    // The step that is taken is the first.
    let plain = run(&[0.0, 0.0]);
    assert_ne!(plain[1][0], start);
    assert_eq!(skipping[3], plain[1]);
}

#[test]
fn its_size_goes_by_the_rate_of_the_step() {
    let mut config = unit().schedule(Exponential { gamma: 0.25 });
    config = config.group(Group::matching("b").set("lr", 0.0)).group(Group::matching("c").set("lr", 2.0));
    let (specs, start) = (specs(), filled(&specs(), 0.0));
    let root_mean_square = |values: &[f32]| {
        (values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / values.len() as f64).sqrt()
    };
    let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Separate);
    let mut cpu = Run::<f32>::new(&config, &specs, &start);
    for step in 0..3 {
        model.write_params(&start);
        cpu.params.clone_from(&start);
        model.step(&start);
        cpu.step(&some(&start));
        for params in [model.params(), cpu.params.clone()] {
            let size = 0.5f64.powi(step);
            let [a, c] = [0, 2].map(|t| root_mean_square(&params[t]) / size);
            // Standard errors are 0.01 and 0.02.
            assert!((a - 1.0).abs() < 0.04 && (c - 2.0).abs() < 0.08, "step {step}: {a} and {c}");
            assert_eq!(params[1], start[1]);
        }
    }
}

#[test]
fn weights_are_limited_after_it_and_averaged_after_both() {
    let limits = WeightsConfig { clip_value: Some(0.5), ..WeightsConfig::default() };
    let config = unit().weights(limits).ema(wgpu_optim::EmaConfig::default());
    let (specs, start) = (specs(), filled(&specs(), 0.0));
    let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Arena);
    let mut cpu = Run::<f32>::new(&config, &specs, &start);
    model.step(&start);
    cpu.step(&some(&start));
    let averages = [model.optimizer.state_blocking().unwrap(), cpu.optimizer.state().map(|x| *x)];
    for (params, state) in [model.params(), cpu.params.clone()].iter().zip(&averages) {
        assert!(params.iter().flatten().all(|p| p.abs() <= 0.5));
        // Of N(0, 1) 62 % lie beyond ±0.5.
        let at_limit = params[0].iter().filter(|p| p.abs() == 0.5).count();
        assert!((2950..3230).contains(&at_limit), "{at_limit}");
        // The first average is the weights.
        for (tensor, params) in state.tensors.iter().zip(params) {
            assert_eq!(tensor.slots[0].1, *params);
        }
    }
}

#[test]
fn a_run_that_goes_on_has_the_same_bits() {
    let storage = StorageConfig {
        params: Format::Bf16,
        rounding: Rounding::Stochastic,
        state: StateFormat::Q8,
        ..StorageConfig::default()
    };
    let noise = NoiseConfig { temperature: 1e-3, seed: 3 };
    let config = OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage).noise(noise);
    let specs = specs();
    let draw = |seed| -> Vec<_> {
        let mut numbers = Numbers::new(seed);
        specs.iter().map(|spec| numbers.take(spec.elements().unwrap() as usize)).collect()
    };
    let mut whole = Model::new(&gpu(), &config, &specs, &draw(1), Place::Arena);
    (2..4).for_each(|step| whole.step(&draw(step)));
    let (params, state) = (whole.params(), whole.optimizer.state_blocking().unwrap());
    let mut again = Model::new(&gpu(), &config, &specs, &params, Place::TwoBuffers);
    again.optimizer.load_state(&state).unwrap();
    for step in 4..6 {
        whole.step(&draw(step));
        again.step(&draw(step));
    }
    assert_eq!(whole.bits(), again.bits());
}

#[test]
fn steps_down_a_bowl_sample_its_normal_distribution() {
    // U(p) = (p - 2)²/2 at temperature ¼: a step keeps 0.9 of p - 2 and adds 2·0.1·¼ of variance, which settles at
    // 0.05 / (1 - 0.81). Each element is a chain of its own.
    let expected = 0.05 / (1.0 - 0.81);
    let rule = Sgd { lr: 0.1, ..Sgd::default() };
    let config = OptimizerConfig::new(rule).noise(NoiseConfig { temperature: 0.25, seed: 11 });
    let specs = [TensorSpec::new("w", [1 << 14])];
    let check = |what: &str, params: &[f32]| {
        let count = params.len() as f64;
        let mean = params.iter().map(|p| f64::from(*p)).sum::<f64>() / count;
        let variance = params.iter().map(|p| (f64::from(*p) - mean).powi(2)).sum::<f64>() / count;
        let errors = [(mean - 2.0) / (expected / count).sqrt(), (variance / expected - 1.0) / (2.0 / count).sqrt()];
        assert!(errors.iter().all(|e| e.abs() < 4.0), "{what}: mean {mean}, variance {variance}, {errors:?} errors");
    };
    let gradient = |params: &[Vec<f32>]| -> Vec<Vec<f32>> { vec![params[0].iter().map(|p| p - 2.0).collect()] };
    let start = filled(&specs, 0.0);
    let mut cpu = Run::<f32>::new(&config, &specs, &start);
    let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Arena);
    for _ in 0..120 {
        cpu.step(&some(&gradient(&cpu.params)));
        model.step(&gradient(&model.params()));
    }
    check("on the CPU", &cpu.params[0]);
    check("on the GPU", &model.params()[0]);
}

#[test]
fn what_cannot_have_it_is_refused_by_name() {
    let noisy = |config: OptimizerConfig| config.noise(NoiseConfig::default());
    let says = |config: &OptimizerConfig, words: [&str; 2]| {
        let error = config.check().unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(&noisy(OptimizerConfig::new(Rprop::default())), ["optimizer.rule", "\"rprop\""]);
    says(&noisy(OptimizerConfig::new(ScheduleFreeAdamW::default())), ["optimizer.rule", "\"schedule_free_adamw\""]);
    let group = Group::matching("x.*").rule(Rprop::default());
    says(&noisy(unit().group(group.clone())), ["groups.\"x.*\".rule", "\"rprop\""]);
    // Frozen tensors take no steps.
    noisy(unit().group(group.frozen())).check().unwrap();
    noisy(OptimizerConfig::new(Lion::default())).check().unwrap();
    for temperature in [-1.0, f64::NAN, 1e19] {
        let config = unit().noise(NoiseConfig { temperature, seed: 0 });
        says(&config, ["noise.temperature", "from 0 to 1e18"]);
    }
}
