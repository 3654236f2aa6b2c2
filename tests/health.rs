//! Health of gradients: figures against the host's own, and verdicts on networks whose gradients really
//! vanish and really explode.

mod support;

use std::time::{Duration, Instant};

use ndarray::{ArrayD, IxDyn};
use support::model::{Model, Place};
use support::oracle::Run;
use support::{Numbers, arena, gpu, submit, wide};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{Adafactor, AdamW, Lamb, Sgd};
use wgpu_optim::{
    Arena, Format, Gpu, GradientConfig, Health, HealthConfig, Master, Optimizer, OptimizerConfig, Rounding,
    StorageConfig, TensorHealth, TensorSpec, Verdict,
};

fn every_step() -> HealthConfig {
    HealthConfig { interval: 1, ..HealthConfig::default() }
}

/// Polls until a look at the step arrives; the library itself never waits.
fn look(optimizer: &mut Optimizer, steps: u64) -> Health {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(health) = optimizer.health().unwrap().filter(|h| h.steps_taken == steps) {
            return health.clone();
        }
        assert!(Instant::now() < deadline, "no look arrived");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

struct Bench {
    gpu: Gpu,
    arena: Arena,
    optimizer: Optimizer,
}

fn bench(config: &OptimizerConfig, specs: &[TensorSpec], params: &[Vec<f32>]) -> Bench {
    let gpu = gpu();
    let arena = arena(&gpu, specs, params);
    let mut optimizer = Optimizer::new(&gpu, config, arena.tensors().to_vec()).unwrap();
    optimizer.set_health(Some(every_step())).unwrap();
    Bench { gpu, arena, optimizer }
}

impl Bench {
    fn step(&mut self, specs: &[TensorSpec], gradients: &[Vec<f32>]) {
        for (spec, gradient) in specs.iter().zip(gradients) {
            self.arena.write_gradient(&spec.name, gradient).unwrap();
        }
        submit(&self.gpu, |encoder| self.optimizer.step(encoder).unwrap());
    }
}

/// f32 sums of a few thousand squares in trees of at most a few levels: 1e-6 leaves room for their
/// roundings, and none for a missing block.
const LIMIT: f64 = 1e-6;

#[test]
fn figures_are_those_of_the_gradients_and_of_the_change() {
    let sizes = [1usize, 4097, 9001];
    let shapes: [&[u64]; 3] = [&[1], &[17, 241], &[9001]];
    let specs: Vec<_> = shapes.iter().map(|s| TensorSpec::new(format!("t{s:?}"), s.to_vec())).collect();
    let adaptive = GradientConfig { clip_adaptive: Some(0.1), ..GradientConfig::default() };
    let adaptive = OptimizerConfig::new(AdamW { lr: 0.1, ..AdamW::default() }).gradient(adaptive);
    for config in [
        OptimizerConfig::new(AdamW { lr: 0.1, ..AdamW::default() }),
        OptimizerConfig::new(Lamb { lr: 0.1, ..Lamb::default() }).clip_global_norm(0.5),
        OptimizerConfig::new(Adafactor { lr: 0.1, ..Adafactor::default() }),
        adaptive,
    ] {
        let mut numbers = Numbers::new(3);
        let params: Vec<_> = sizes.iter().map(|n| numbers.take(*n)).collect();
        let mut bench = bench(&config, &specs, &params);
        let mut on_cpu = CpuOptimizer::<f64>::new(&config, &specs).unwrap();
        on_cpu.set_health(Some(every_step())).unwrap();
        let array = |values: &Vec<f32>, spec: &TensorSpec| {
            let shape: Vec<_> = spec.shape.iter().map(|n| *n as usize).collect();
            ArrayD::from_shape_vec(IxDyn(&shape), wide(values)).unwrap()
        };
        let mut cpu_params: Vec<_> = params.iter().zip(&specs).map(|(p, s)| array(p, s)).collect();
        let mut before = params.clone();
        for step in 1..=3 {
            let mut gradients: Vec<_> = sizes.iter().map(|n| numbers.take(*n)).collect();
            gradients[2].iter_mut().step_by(3).for_each(|g| *g = 0.0);
            bench.step(&specs, &gradients);
            let health = look(&mut bench.optimizer, step);
            let after = bench.optimizer.params_blocking().unwrap();
            let arrays: Vec<_> = gradients.iter().zip(&specs).map(|(g, s)| array(g, s)).collect();
            let mut tensors: Vec<_> =
                cpu_params.iter_mut().zip(&arrays).map(|(p, g)| CpuTensor::new(p.view_mut(), g.view())).collect();
            on_cpu.step(&mut tensors).unwrap();
            let oracle = on_cpu.health().unwrap();
            assert_eq!(oracle.steps_taken, step);
            for (t, seen) in health.tensors.iter().enumerate() {
                let gradient = wide(&gradients[t]);
                let close = |found: f64, expected: f64| {
                    approx::assert_relative_eq!(found, expected, max_relative = LIMIT);
                };
                close(seen.gradient_norm, norm(&gradient));
                close(seen.gradient_rms, norm(&gradient) / (sizes[t] as f64).sqrt());
                assert_eq!(seen.gradient_max, gradient.iter().fold(0.0, |m: f64, x| m.max(x.abs())));
                let zeros = gradient.iter().filter(|g| **g == 0.0).count() as f64;
                assert_eq!(seen.zeros, zeros / sizes[t] as f64);
                assert_eq!(seen.nonfinite, 0.0);
                let change: Vec<_> = wide(&after[t]).iter().zip(wide(&before[t])).map(|(a, b)| a - b).collect();
                close(seen.update_ratio.unwrap(), norm(&change) / norm(&wide(&before[t])));
                let expected = &oracle.tensors[t];
                close(seen.gradient_norm, expected.gradient_norm);
                // The change of f32 weights is rounded where it is small beside them.
                let ratio = expected.update_ratio.unwrap();
                approx::assert_relative_eq!(seen.update_ratio.unwrap(), ratio, max_relative = 1e-4);
                let same = |h: &TensorHealth| (h.name.clone(), h.gradient_max, h.zeros, h.nonfinite, h.verdict);
                assert_eq!(same(seen), same(expected));
            }
            before = after;
        }
    }
}

/// The change is the step's, before the weights are rounded to how they are stored; and with a master the weights are it.
#[test]
fn the_change_of_16_bit_weights_is_that_of_the_step_on_both_backends() {
    let specs = [TensorSpec::new("w", [3, 400])];
    let params: Vec<f32> = Numbers::new(8).take(1200).iter().map(|x| Format::Bf16.round(*x)).collect();
    let of = |params, master, rounding| StorageConfig { params, master, rounding, ..StorageConfig::default() };
    for storage in [
        of(Format::Bf16, None, Rounding::Nearest),
        of(Format::F16, None, Rounding::Nearest),
        of(Format::Bf16, Some(Master::None), Rounding::Nearest),
        of(Format::Bf16, None, Rounding::Stochastic),
    ] {
        let config = OptimizerConfig::new(AdamW { lr: 1e-4, ..AdamW::default() }).storage(storage.clone());
        let mut model = Model::new(&gpu(), &config, &specs, std::slice::from_ref(&params), Place::Arena);
        model.optimizer.set_health(Some(every_step())).unwrap();
        let mut on_cpu = Run::<f64>::new(&config, &specs, std::slice::from_ref(&params));
        on_cpu.optimizer.set_health(Some(every_step())).unwrap();
        for step in 1..=3 {
            let gradient = Numbers::new(20 + step).take(1200);
            model.step(std::slice::from_ref(&gradient));
            on_cpu.step(&[Some(wide(&gradient))]);
            let found = look(&mut model.optimizer, step).tensors[0].update_ratio.unwrap();
            let expected = on_cpu.optimizer.health().unwrap().tensors[0].update_ratio.unwrap();
            approx::assert_relative_eq!(found, expected, max_relative = 2e-3);
            // Steps of 1e-4 beside weights of 0.6, not those from one number of the format to the next.
            assert!((1e-4..3e-4).contains(&found), "{storage:?}: {found:e}");
        }
    }
}

#[test]
fn looking_changes_no_bit() {
    let specs = [TensorSpec::new("w", [5000])];
    let start = vec![Numbers::new(1).take(5000)];
    let run = |watched: bool| {
        let mut bench = bench(&OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0), &specs, &start);
        bench.optimizer.set_health(watched.then(every_step)).unwrap();
        (0..4).for_each(|i| bench.step(&specs, &[Numbers::new(10 + i).take(5000)]));
        (bench.optimizer.params_blocking().unwrap(), bench.optimizer.state_blocking().unwrap())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn skipped_steps_dead_and_absent_tensors_are_told() {
    let specs = [TensorSpec::new("live", [100]), TensorSpec::new("dead", [100]), TensorSpec::new("absent", [8])];
    let params = [vec![1.0; 100], vec![1.0; 100], vec![1.0; 8]];
    let mut bench = bench(&OptimizerConfig::new(Sgd::default()), &specs, &params);
    bench.optimizer.set_gradient(2, None).unwrap();
    let gradients = [vec![0.5; 100], vec![0.0; 100], vec![0.0; 8]];
    bench.step(&specs, &gradients);
    let health = look(&mut bench.optimizer, 1);
    let verdicts: Vec<_> = health.tensors.iter().map(|t| (t.name.as_str(), t.verdict)).collect();
    assert_eq!(verdicts, [("live", Verdict::Healthy), ("dead", Verdict::Dead)]);

    let mut bad = gradients.clone();
    bad[0][99] = f32::INFINITY;
    bench.step(&specs, &bad);
    bench.optimizer.wait_for_report().unwrap();
    let health = look(&mut bench.optimizer, 1);
    assert_eq!(health.tensors[0].nonfinite, 0.01);
    assert_eq!((health.tensors[0].verdict, health.tensors[0].update_ratio), (Verdict::Exploding, None));
}

/// Gradients of a chain of `layers` sigmoid layers of width 16 for a squared error, by backpropagation.
fn sigmoid_chain(weights: &[Vec<f32>]) -> Vec<Vec<f32>> {
    const WIDTH: usize = 16;
    let mut numbers = Numbers::new(77);
    let mut activations = vec![wide(&numbers.take(WIDTH))];
    for w in weights {
        let input = activations.last().unwrap();
        let dot = |i: usize| (0..WIDTH).map(|j| f64::from(w[i * WIDTH + j]) * input[j]).sum::<f64>();
        activations.push((0..WIDTH).map(|i| 1.0 / (1.0 + (-dot(i)).exp())).collect());
    }
    let target = wide(&numbers.take(WIDTH));
    let mut delta: Vec<f64> = activations.last().unwrap().iter().zip(target).map(|(a, t)| a - t).collect();
    let mut gradients = Vec::new();
    for (layer, w) in weights.iter().enumerate().rev() {
        let (input, output) = (&activations[layer], &activations[layer + 1]);
        let at: Vec<_> = delta.iter().zip(output).map(|(d, a)| d * a * (1.0 - a)).collect();
        gradients.push((0..WIDTH * WIDTH).map(|k| (at[k / WIDTH] * input[k % WIDTH]) as f32).collect());
        delta = (0..WIDTH).map(|j| (0..WIDTH).map(|i| f64::from(w[i * WIDTH + j]) * at[i]).sum()).collect();
    }
    gradients.reverse();
    gradients
}

#[test]
fn a_deep_sigmoid_network_vanishes_towards_its_input() {
    let layers = 14;
    let mut numbers = Numbers::new(5);
    // Uniform in ±√3/4, variance 1/16: as wide as the layer, the usual choice.
    let weights: Vec<Vec<f32>> = (0..layers).map(|_| numbers.take(256).iter().map(|x| x * 0.433).collect()).collect();
    let specs: Vec<_> = (0..layers).map(|l| TensorSpec::new(format!("layer{l:02}"), [16, 16])).collect();
    let mut bench = bench(&OptimizerConfig::new(Sgd::default()), &specs, &weights);
    let gradients = sigmoid_chain(&weights);
    bench.step(&specs, &gradients);
    let health = look(&mut bench.optimizer, 1);
    assert_eq!(health.tensors[0].verdict, Verdict::Vanishing, "{:?}", health.tensors[0]);
    assert_eq!(health.tensors[layers - 1].verdict, Verdict::Healthy, "{:?}", health.tensors[layers - 1]);
    // And it gets worse layer by layer.
    let sizes: Vec<_> = health.tensors.iter().map(|t| t.gradient_rms).collect();
    assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
    // A shallow one of the same make is well.
    let mut shallow = self::bench(&OptimizerConfig::new(Sgd::default()), &specs[..3], &weights[..3]);
    shallow.step(&specs[..3], &sigmoid_chain(&weights[..3]));
    let health = look(&mut shallow.optimizer, 1);
    assert!(health.tensors.iter().all(|t| t.verdict == Verdict::Healthy), "{health:?}");
}

/// Gradient of ½‖h‖² after `steps` of h ← W·h + x for W = `scale` times a rotation, by backpropagation
/// through time.
fn recurrent(scale: f64, steps: usize) -> (Vec<f32>, Vec<f32>) {
    let (sin, cos) = 0.7f64.sin_cos();
    let w = [scale * cos, -scale * sin, scale * sin, scale * cos];
    let mut states = vec![[0.0, 0.0]];
    for _ in 0..steps {
        let h = states.last().unwrap();
        states.push([w[0] * h[0] + w[1] * h[1] + 0.1, w[2] * h[0] + w[3] * h[1] - 0.05]);
    }
    let mut delta = *states.last().unwrap();
    let mut gradient = [0.0; 4];
    for h in states.iter().rev().skip(1) {
        (0..4).for_each(|k| gradient[k] += delta[k / 2] * h[k % 2]);
        delta = [w[0] * delta[0] + w[2] * delta[1], w[1] * delta[0] + w[3] * delta[1]];
    }
    (w.map(|x| x as f32).to_vec(), gradient.map(|x| x as f32).to_vec())
}

#[test]
fn a_recurrent_network_explodes_with_its_largest_eigenvalue() {
    let specs = [TensorSpec::new("recurrent", [2, 2])];
    for (scale, expected) in [(1.5, Verdict::Exploding), (0.9, Verdict::Healthy)] {
        let (w, gradient) = recurrent(scale, 40);
        let mut bench = bench(&OptimizerConfig::new(Sgd::default()), &specs, &[w]);
        bench.step(&specs, &[gradient]);
        let health = look(&mut bench.optimizer, 1);
        assert_eq!(health.tensors[0].verdict, expected, "{health:?}");
    }
}

#[test]
fn impossible_thresholds_are_refused() {
    let specs = [TensorSpec::new("w", [2])];
    let mut bench = bench(&OptimizerConfig::new(Sgd::default()), &specs, &[vec![0.0; 2]]);
    for (config, key) in [
        (HealthConfig { interval: 0, ..HealthConfig::default() }, "interval"),
        (HealthConfig { vanishing: 1.0, ..HealthConfig::default() }, "vanishing"),
        (HealthConfig { exploding: 0.0, ..HealthConfig::default() }, "exploding"),
        (HealthConfig { dead: 1.5, ..HealthConfig::default() }, "dead"),
    ] {
        let error = bench.optimizer.set_health(Some(config)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("health.{key}: ")), "{error}");
    }
}

/// Looks are due by recorded micro-batches, most of which complete no step.
#[test]
fn a_look_comes_whatever_the_interval_and_the_micro_batches() {
    let specs = [TensorSpec::new("w", [300])];
    for (accumulate, interval) in [(4, HealthConfig::default().interval), (3, 2), (2, 5)] {
        let gradient = GradientConfig { accumulate, ..GradientConfig::default() };
        let config = OptimizerConfig::new(Sgd::default()).gradient(gradient);
        let looks = HealthConfig { interval, ..HealthConfig::default() };
        let mut bench = bench(&config, &specs, &[vec![1.0; 300]]);
        bench.optimizer.set_health(Some(looks.clone())).unwrap();
        let mut on_cpu = CpuOptimizer::<f64>::new(&config, &specs).unwrap();
        on_cpu.set_health(Some(looks)).unwrap();
        let (mut w, g) = (ArrayD::<f64>::ones(IxDyn(&[300])), ArrayD::<f64>::ones(IxDyn(&[300])));
        for batch in 1..=4 * accumulate {
            bench.step(&specs, &[vec![1.0; 300]]);
            on_cpu.step(&mut [CpuTensor::new(w.view_mut(), g.view())]).unwrap();
            bench.optimizer.wait_for_report().unwrap();
            match on_cpu.health().map(|health| health.steps_taken) {
                None => assert!(batch < accumulate, "no look at the first step of {accumulate}"),
                Some(steps) => drop(look(&mut bench.optimizer, steps)),
            }
        }
    }
}

#[test]
fn a_look_that_met_no_step_is_taken_again() {
    let gradient = GradientConfig { accumulate: 3, ..GradientConfig::default() };
    let config = OptimizerConfig::new(Sgd::default()).gradient(gradient);
    let gpu = support::watched::Watched::own().gpu;
    let specs = [TensorSpec::new("w", [300])];
    let arena = arena(&gpu, &specs, &[vec![1.0; 300]]);
    let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
    optimizer.set_health(Some(HealthConfig::default())).unwrap();
    // So that the next but one seems to complete a step, and does not.
    let mut refused = support::encoder(&gpu);
    optimizer.step(&mut refused).unwrap();
    support::refuse(&gpu, refused);
    submit(&gpu, |encoder| (0..2).for_each(|_| optimizer.step(encoder).unwrap()));
    optimizer.wait_for_report().unwrap();
    assert_eq!(optimizer.health().unwrap(), None);
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    look(&mut optimizer, 1);
}
