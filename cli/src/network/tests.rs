use ndarray::{Array2, ArrayView2, Axis};
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::AdamW;
use wgpu_optim::{Arena, CpuFloat, EmaConfig, Gpu, OptimizerConfig};

use super::cpu::{Linear, gradients, judge, network};
use super::gpu::GpuNetwork;
use super::trainer::{CpuTrainer, GpuTrainer, Trainer};
use super::{Outcome, batches, initial_params, specs};
use crate::digits::{Digits, PIXELS};
use crate::readback::Readback;

fn images<F: CpuFloat>(digits: &Digits, order: &[u32]) -> (Array2<F>, Vec<u8>) {
    let places: Vec<_> = order.iter().map(|image| *image as usize).collect();
    let all = ArrayView2::from_shape((digits.labels.len(), PIXELS), &digits.images).unwrap();
    let images = all.select(Axis(0), &places).mapv(|pixel| F::of(f64::from(pixel)));
    (images, places.iter().map(|image| digits.labels[*image]).collect())
}

fn mean_loss(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().map(|o| o.loss).sum::<f64>() / outcomes.len() as f64
}

fn flat<F: CpuFloat>(layers: &[Linear<F>]) -> Vec<Vec<f64>> {
    let values = |layer: &Linear<F>| {
        [layer.weight.iter().map(|x| x.f64()).collect(), layer.bias.iter().map(|x| x.f64()).collect()]
    };
    layers.iter().flat_map(values).collect()
}

/// ‖a − b‖ / ‖b‖.
fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// Parameters with biases that are not zero.
fn params(seed: u64) -> Vec<Vec<f32>> {
    let mut params = initial_params(seed);
    for (index, bias) in params.iter_mut().skip(1).step_by(2).flatten().enumerate() {
        *bias = 0.3 * (index as f32).sin();
    }
    params
}

#[test]
fn cpu_gradients_are_slopes_of_the_loss() {
    let digits = Digits::load();
    let (x, labels) = images::<f64>(&digits, &digits.training[..9]);
    let mut layers = network::<f64>(&params(1)).unwrap();
    let analytic = gradients(&layers, x.clone(), &labels).0;
    // The error of a central difference is about h² plus the loss's rounding over h: 1e-9 here.
    let h = 1e-6;
    let mut slopes = flat(&analytic);
    for (tensor, slopes) in slopes.iter_mut().enumerate() {
        for (index, slope) in slopes.iter_mut().enumerate() {
            let mut at = |shift: f64| {
                let layer = &mut layers[tensor / 2];
                let values = if tensor % 2 == 0 { layer.weight.as_slice_mut() } else { layer.bias.as_slice_mut() };
                values.unwrap()[index] += shift;
                mean_loss(&judge(&layers, x.clone(), &labels))
            };
            let (above, below) = (at(h), at(-2.0 * h));
            at(h);
            *slope = (above - below) / (2.0 * h);
        }
    }
    for ((analytic, slopes), spec) in flat(&analytic).iter().zip(&slopes).zip(specs()) {
        let error = relative_error(analytic, slopes);
        assert!(error < 1e-7, "{}: {error:e}", spec.name);
    }
}

#[test]
fn gpu_gradients_are_the_cpus() {
    let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
    let digits = Digits::load();
    let params = params(2);
    let specs = specs();
    let arena = Arena::new(&gpu, specs.clone()).unwrap();
    for (spec, values) in specs.iter().zip(&params) {
        arena.write_params(&spec.name, values).unwrap();
        // What a kernel fails to write shows.
        arena.write_gradient(&spec.name, &vec![f32::NAN; values.len()]).unwrap();
    }
    let plan = Plan::new(&OptimizerConfig::new(AdamW::default()), &specs).unwrap();
    // 1437 = 14 · 100 + 37: the last mini-batch is shorter.
    let network = GpuNetwork::new(&gpu, &plan, &arena, &digits, 100).unwrap();
    let last = network.training.batches() - 1;
    for batch in [last, 3] {
        let rows = batches(digits.training.len(), 100)[batch].clone();
        let (x, labels) = images::<f64>(&digits, &digits.training[rows.clone()]);
        let (expected, expected_outcomes) = gradients(&self::network::<f64>(&params).unwrap(), x, &labels);

        let outcomes_size = network.training.outcomes.size();
        let slices: Vec<_> = specs.iter().map(|spec| arena.gradient(&spec.name).unwrap()).collect();
        let mut sources = vec![network.training.outcomes.slice(..)];
        sources.extend(slices.iter().map(|s| s.buffer.slice(s.offset..s.offset + s.size)));
        let mut readback = Readback::new(gpu.device(), sources.iter().map(|s| s.size()).sum());
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        network.record_gradients(&mut encoder, batch);
        readback.record(&mut encoder, &sources);
        gpu.queue().submit([encoder.finish()]);
        readback.request();
        let values: Vec<_> = readback.take(true).unwrap().unwrap().into_iter().map(f64::from).collect();

        let (outcomes, mut values) = values.split_at(outcomes_size as usize / 4);
        for (pair, expected) in outcomes.chunks_exact(2).skip(rows.start).zip(&expected_outcomes) {
            assert!((pair[0] - expected.loss).abs() < 1e-5 * (1.0 + expected.loss), "{pair:?}, {expected:?}");
            assert_eq!(pair[1] != 0.0, expected.correct);
        }
        for (expected, spec) in flat(&expected).iter().zip(&specs) {
            let (gradient, rest) = values.split_at(expected.len());
            values = rest;
            // Sums of up to 100 products of f32 (each off by 6e-8), and WGSL lets `exp` be off by 3 + 2|x|
            // units in the last place: a few 1e-7 each, three layers deep.
            let error = relative_error(gradient, expected);
            assert!(error < 1e-5, "mini-batch {batch}, {}: {error:e}", spec.name);
        }
    }
}

/// Two epochs: the training losses, the held-back loss told last, and what it is by the weights that come out
/// and by those that are trained.
fn two_epochs(trainer: &mut dyn Trainer, digits: &Digits) -> ([f64; 2], [f64; 3]) {
    let mut epochs = Vec::new();
    for order in digits.orders(5).take(2) {
        epochs.extend(trainer.epoch(&order).unwrap());
    }
    epochs.extend(trainer.finish().unwrap());
    let loss = |params: &[Vec<f32>]| {
        let (images, labels) = images::<f32>(digits, &digits.held_back);
        mean_loss(&judge(&network(params).unwrap(), images, &labels))
    };
    let trained = trainer.checkpoint().unwrap().wait().unwrap().params.unwrap();
    let trained: Vec<_> = trained.into_iter().map(|tensor| tensor.values).collect();
    let losses = [epochs[1].held_back.loss, loss(&trainer.params().unwrap()), loss(&trained)];
    ([epochs[0].training.loss, epochs[1].training.loss], losses)
}

#[test]
fn averaged_weights_are_those_judged_and_given_out() {
    let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
    let digits = Digits::load();
    let params = initial_params(4);
    let plain = || OptimizerConfig::new(AdamW::default());
    // So slow that it stays near the start.
    let averaged = plain().ema(EmaConfig { decay: 0.9999, ..EmaConfig::default() });
    let schedule_free = OptimizerConfig::named("schedule_free_adamw").unwrap();
    let both = |config: &OptimizerConfig| {
        let mut on_gpu = GpuTrainer::new(&gpu, config, &digits, &params, 32).unwrap();
        let mut on_cpu = CpuTrainer::new(config, &digits, &params, 32).unwrap();
        [two_epochs(&mut on_gpu, &digits), two_epochs(&mut on_cpu, &digits)]
    };
    let without = both(&plain());
    let with = both(&averaged);
    for ((training, losses), (plain, _)) in with.into_iter().zip(without) {
        assert_eq!(training, plain, "training goes on with its own weights");
        assert!((losses[0] - losses[1]).abs() < 1e-5 * losses[1], "{losses:?}");
        assert!(losses[1] > 1.5 * losses[2], "{losses:?}");
    }
    for (_, losses) in both(&schedule_free) {
        assert!((losses[0] - losses[1]).abs() < 1e-5 * losses[1], "{losses:?}");
        assert!((losses[1] - losses[2]).abs() > 1e-3 * losses[2], "{losses:?}");
    }
}

#[test]
fn a_wrong_gradient_is_told_from_rounding() {
    let digits = Digits::load();
    let (x, labels) = images::<f64>(&digits, &digits.training[..32]);
    let exact = flat(&gradients(&network::<f64>(&params(3)).unwrap(), x, &labels).0);
    let (x, labels) = images::<f32>(&digits, &digits.training[..32]);
    let single = flat(&gradients(&network::<f32>(&params(3)).unwrap(), x, &labels).0);
    for (exact, single) in exact.iter().zip(&single) {
        assert!(relative_error(single, exact) < 1e-5);
        let mut wrong = single.clone();
        wrong[0] += 1e-3 * exact.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(relative_error(&wrong, exact) > 1e-5);
    }
}
