//! Micro-batches whose loss scales differ: each gradient is divided by the scale that it was made with.

mod support;

use support::gpu;
use support::model::{Model, PLACES, Place};
use support::oracle::Run;
use wgpu_optim::cpu::CpuOptimizer;
use wgpu_optim::rules::{Adafactor, Sgd};
use wgpu_optim::{
    DynamicScale, GradientConfig, LossScale, OnNonfinite, OptimizerConfig, OptimizerState, StorageConfig, TensorSpec,
    storage::Format,
};

fn config(loss_scale: Option<LossScale>) -> OptimizerConfig {
    let gradient = GradientConfig { accumulate: 2, loss_scale, ..GradientConfig::default() };
    OptimizerConfig::new(Sgd { lr: 0.5, ..Sgd::default() }).gradient(gradient)
}

fn fixed(scale: f64) -> OptimizerConfig {
    config(Some(LossScale::Fixed(scale)))
}

fn spec() -> [TensorSpec; 1] {
    [TensorSpec::new("w", [5])]
}

/// The gradients [1, 2, 3, 4, 5] of a loss times `scale`.
fn gradients(scale: f32) -> Vec<Vec<f32>> {
    vec![(1..6).map(|x| scale * x as f32).collect()]
}

fn some(gradients: &[Vec<f32>]) -> Vec<Option<Vec<f32>>> {
    gradients.iter().cloned().map(Some).collect()
}

/// After a step with the mean of [1, 2, 3, 4, 5] and the same from 0.
const STEPPED: [f32; 5] = [-0.5, -1.0, -1.5, -2.0, -2.5];

#[test]
fn another_scale_between_micro_batches_divides_its_own_gradients_alone() {
    let start = vec![vec![0.0; 5]];
    for (before, after) in [(fixed(1024.0), config(None)), (config(None), fixed(0.25)), (fixed(8.0), fixed(1024.0))] {
        let scale = |config: &OptimizerConfig| match config.gradient.loss_scale {
            Some(LossScale::Fixed(scale)) => scale as f32,
            _ => 1.0,
        };
        let mut on_cpu = Run::<f32>::new(&before, &spec(), &start);
        on_cpu.step(&some(&gradients(scale(&before))));
        on_cpu.optimizer.reconfigure(&after, &spec()).unwrap();
        on_cpu.step(&some(&gradients(scale(&after))));
        assert_eq!(on_cpu.params, [STEPPED], "{before:?} to {after:?}");
        for place in PLACES {
            let mut model = Model::new(&gpu(), &before, &spec(), &start, place);
            model.step(&gradients(scale(&before)));
            let tensors = model.optimizer.tensors().to_vec();
            model.optimizer.reconfigure(&after, tensors).unwrap();
            model.step(&gradients(scale(&after)));
            assert_eq!(model.params(), [STEPPED], "{place:?} {before:?} to {after:?}");
        }
    }
}

#[test]
fn a_state_between_micro_batches_goes_on_under_another_scale() {
    let start = vec![vec![0.0; 5]];
    for after in [LossScale::Fixed(64.0), LossScale::Dynamic(DynamicScale::default())].map(Some) {
        let mut first = Model::new(&gpu(), &fixed(1024.0), &spec(), &start, Place::Arena);
        first.step(&gradients(1024.0));
        let bytes = first.optimizer.state_blocking().unwrap().to_safetensors().unwrap();
        let mut second = Model::new(&gpu(), &config(after), &spec(), &start, Place::Arena);
        let state = OptimizerState::from_safetensors(&bytes, second.optimizer.plan()).unwrap();
        assert_eq!(state.tensors[0].slots[0], ("grad_accumulator".to_owned(), gradients(1.0).remove(0)));
        second.optimizer.load_state(&state).unwrap();
        let scale = second.optimizer.state_blocking().unwrap().loss_scale as f32;
        second.step(&gradients(scale));
        assert_eq!(second.params(), [STEPPED], "{after:?}");
        let mut on_cpu = Run::<f32>::new(&config(after), &spec(), &start);
        on_cpu.optimizer.load_state(&state).unwrap();
        on_cpu.step(&some(&gradients(scale)));
        assert_eq!(on_cpu.params, [STEPPED], "{after:?}");
    }
}

#[test]
fn files_whose_sums_still_have_their_scale_are_read_without_it() {
    // Written by the version before: SGD with lr 0.5 and momentum 0.9, a loss scale of 1,024, two micro-batches a
    // step, after the third micro-batch of the gradients [1, -0.5, 0.25], which lie 1,024 times as large in it.
    let bytes = include_bytes!("fixtures/v2_between_micro_batches.safetensors");
    let mut config = fixed(1024.0);
    config.rule = Box::new(Sgd { lr: 0.5, momentum: 0.9, ..Sgd::default() });
    let spec = [TensorSpec::new("w", [3])];
    let mut on_cpu = Run::<f32>::new(&config, &spec, &[vec![0.5, -1.75, 0.375]]);
    let state = OptimizerState::from_safetensors(bytes, on_cpu.optimizer.plan()).unwrap();
    let sum = state.tensors[0].slots.iter().find(|(name, _)| name == "grad_accumulator").unwrap();
    assert_eq!(sum.1, [1.0, -0.5, 0.25]);
    on_cpu.optimizer.load_state(&state).unwrap();
    on_cpu.step(&[Some(vec![1024.0, -512.0, 256.0])]);
    // The buffer goes from g to 1.9 g.
    let expected = [0.5f32 - 0.95, -1.75 + 0.475, 0.375 - 0.2375];
    for (found, expected) in on_cpu.params[0].iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
    // Only sums that would be read wrong want the newer version.
    let version = |state: &OptimizerState| {
        let text = String::from_utf8_lossy(&state.to_safetensors().unwrap()).into_owned();
        [r#""version":"2""#, r#""version":"3""#].map(|version| text.contains(version))
    };
    assert_eq!(version(&state), [false, true]);
    assert_eq!(version(&on_cpu.optimizer.state()), [true, false]);
}

#[test]
fn a_sum_that_waits_keeps_its_scale_when_the_scale_moves() {
    // `b` misses the micro-batch that completes a step; another that cannot be represented makes the scale fall.
    let specs = [TensorSpec::new("a", [2]), TensorSpec::new("b", [2])];
    let dynamic = DynamicScale { init: 1024.0, ..DynamicScale::default() };
    let config = config(Some(LossScale::Dynamic(dynamic)));
    let start = [vec![0.0; 2], vec![0.0; 2]];
    let batches: [[Option<f32>; 2]; 4] = [
        [Some(1024.0), Some(1024.0)],
        [Some(f32::INFINITY), None],
        [Some(512.0), Some(512.0)],
        [Some(512.0), Some(512.0)],
    ];
    let of = |batch: &[Option<f32>; 2]| -> Vec<_> { batch.iter().map(|g| g.map(|g| vec![g; 2])).collect() };
    let mut on_cpu = Run::<f32>::new(&config, &specs, &start);
    for batch in &batches {
        on_cpu.step(&of(batch));
    }
    // Sums of 2 and of 3 ones, and the mean over two micro-batches of each.
    assert_eq!(on_cpu.params, [[-0.5; 2], [-0.75; 2]]);
    for place in PLACES {
        let mut model = Model::new(&gpu(), &config, &specs, &start, place);
        for batch in &batches {
            model.step_some(&of(batch));
        }
        assert_eq!(model.params(), on_cpu.params, "{place:?}");
    }
}

#[test]
fn elements_that_are_left_out_are_counted_in_every_micro_batch() {
    let mut config = config(Some(LossScale::Fixed(2.0)));
    config.gradient.accumulate = 3;
    config.gradient.on_nonfinite = OnNonfinite::Zero;
    config.gradient.clip_global_norm = Some(1e6);
    let start = vec![vec![0.0; 5]];
    let bad = |count: usize| {
        let mut gradients = gradients(2.0);
        gradients[0][..count].fill(f32::NAN);
        gradients
    };
    // Two steps; the second has no such element in its last micro-batch.
    let batches = [(1, 1), (2, 3), (3, 6), (0, 0), (4, 4), (0, 4)];
    for by_tensor in [false, true] {
        if by_tensor {
            (config.gradient.clip_global_norm, config.gradient.clip_tensor_norm) = (None, Some(1e6));
        }
        let mut on_cpu = Run::<f32>::new(&config, &spec(), &start);
        for place in PLACES {
            let mut model = Model::new(&gpu(), &config, &spec(), &start, place);
            for (count, so_far) in batches {
                model.step(&bad(count));
                let found = model.optimizer.wait_for_report().unwrap().unwrap();
                assert_eq!((found.nonfinite, found.skipped), (so_far, false), "{place:?} {count}");
                if place == Place::Arena {
                    let found = on_cpu.step(&some(&bad(count)));
                    assert_eq!((found.nonfinite, found.skipped), (so_far, false), "CPU {count}");
                }
            }
            for (found, expected) in model.params()[0].iter().zip(&on_cpu.params[0]) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{place:?}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn sums_by_line_and_of_16_bits_have_no_scale_either() {
    // Rows and columns are sums of squares of the mean gradient, taken of the micro-batches' sum.
    let specs = [TensorSpec::new("m", [3, 4])];
    let start = vec![(0..12).map(|i| i as f32 / 8.0 - 0.5).collect::<Vec<_>>()];
    let step_with = |scale: f64, format: Format| {
        let gradient = GradientConfig {
            accumulate: 2,
            loss_scale: Some(LossScale::Fixed(scale)),
            clip_adaptive: Some(0.5),
            ..GradientConfig::default()
        };
        let storage = StorageConfig { gradients: format, ..StorageConfig::default() };
        let config = OptimizerConfig::new(Adafactor::default()).gradient(gradient).storage(storage);
        let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Arena);
        let mut on_cpu = Run::<f32>::new(&config, &specs, &start);
        for batch in 0..4 {
            // Powers of two: exact in 16 bits.
            let gradients: Vec<f32> = (0..12).map(|i| scale as f32 * ((i + batch) % 5) as f32 / 4.0).collect();
            on_cpu.step(&[Some(gradients.clone())]);
            model.step(&[gradients]);
        }
        for (found, expected) in model.params()[0].iter().zip(&on_cpu.params[0]) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}, {scale} {format:?}");
        }
        model.params()
    };
    let plain = step_with(1.0, Format::F32);
    assert_ne!(plain, start);
    for format in [Format::F32, Format::F16, Format::Bf16] {
        assert_eq!(step_with(256.0, format), plain, "{format:?}");
    }
}

#[test]
fn a_cpu_state_in_f64_has_the_same_sums() {
    let mut optimizer = CpuOptimizer::<f64>::new(&fixed(1024.0), &spec()).unwrap();
    let mut w = ndarray::Array1::<f64>::zeros(5).into_dyn();
    let g = ndarray::Array1::<f64>::from_elem(5, 1024.0).into_dyn();
    optimizer.step(&mut [wgpu_optim::cpu::CpuTensor::new(w.view_mut(), g.view())]).unwrap();
    assert_eq!(optimizer.state().tensors[0].slots[0].1, [1.0; 5]);
}
