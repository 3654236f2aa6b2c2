//! Every rule in every storage: the GPU against the oracle, which stores through the same conversions.

mod support;

use support::grid::{Grid, compare};
use support::model::{Model, PLACES, Place};
use support::oracle::Run;
use support::{Numbers, gpu, submit, wide};
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::{AdamW, Lamb, Sgd};
use wgpu_optim::verify;
use wgpu_optim::{
    EmaConfig, Format, Group, LossScale, Master, NoiseConfig, OnNonfinite, OptimizerConfig, Rounding, StateFormat,
    StorageConfig, TensorSpec, WeightsConfig, rules,
};

const STEPS: u64 = 3;

fn specs() -> Vec<TensorSpec> {
    let vectors = [1u64, 3, 257, 4096, 5001].map(|n| TensorSpec::new(format!("t{n}"), [n]));
    vectors.into_iter().chain([TensorSpec::new("matrix", [71, 61])]).collect()
}

fn draw(specs: &[TensorSpec], seed: u64, scale: f32) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    let mut one = |s: &TensorSpec| numbers.take(s.elements().unwrap() as usize).iter().map(|x| x * scale).collect();
    specs.iter().map(&mut one).collect()
}

fn params(specs: &[TensorSpec]) -> Vec<Vec<f32>> {
    draw(specs, 1, 0.1)
}

fn gradients(specs: &[TensorSpec], step: u64) -> Vec<Vec<f32>> {
    draw(specs, 100 + step, 1.0)
}

/// Each step on the GPU against one of the oracle that starts from the same stored numbers.
fn check(config: &OptimizerConfig, specs: &[TensorSpec], place: Place, label: &str, misses: &mut Vec<String>) {
    let plan = Plan::new(config, specs).unwrap();
    let mut model = Model::new(&gpu(), config, specs, &params(specs), place);
    for step in 0..STEPS {
        let mut exact = Run::<f64>::new(config, specs, &model.params());
        exact.optimizer.load_state(&model.optimizer.state_blocking().unwrap().map(|x| f64::from(*x))).unwrap();
        let gradients = gradients(specs, step);
        exact.step(&gradients.iter().map(|g| Some(wide(g))).collect::<Vec<_>>());
        model.step(&gradients);

        let label = format!("{label} {place:?} step {step}");
        let found = model.params();
        for (t, params) in exact.params_f64().iter().enumerate() {
            let grid = Grid::Float(plan.formats_of(t)[0]);
            compare(&format!("{label} {}", specs[t].name), &grid, &found[t], params, misses);
        }
        let (found, state) = (model.optimizer.state_blocking().unwrap(), exact.optimizer.state());
        assert_eq!(found.steps_taken, state.steps_taken);
        for (found, exact) in found.tensors.iter().zip(&state.tensors) {
            assert_eq!(found.storage.len(), exact.storage.len());
            for ((name, values), (_, expected)) in found.slots.iter().zip(&exact.slots) {
                let what = format!("{label} {}.{name}", found.name);
                compare(&what, &Grid::of_slot(exact, name), values, expected, misses);
            }
        }
    }
    model.assert_guards();
}

#[test]
fn every_rule_in_every_storage_agrees_with_the_oracle() {
    let mut misses = Vec::new();
    for rule in rules::all() {
        // All of them for one; the others meet every format.
        let count = if rule.name() == "adamw" { 9 } else { 4 };
        for storage in verify::storages().into_iter().take(count).skip(1) {
            let config = OptimizerConfig::from_boxed(rule.boxed()).storage(storage.clone());
            check(&config, &specs(), Place::Arena, &format!("{} {storage:?}", rule.name()), &mut misses);
        }
    }
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn storage_goes_with_everything_else_wherever_tensors_lie() {
    let mut misses = Vec::new();
    for (turn, storage) in verify::storages().into_iter().enumerate() {
        let base = || OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage.clone());
        let mut accumulate = base();
        accumulate.gradient.accumulate = 2;
        accumulate.gradient.loss_scale = Some(LossScale::Fixed(8.0));
        let mut zero = base();
        zero.gradient.on_nonfinite = OnNonfinite::Zero;
        zero.gradient.clip_tensor_norm = Some(0.5);
        let mut cautious = base();
        cautious.common.cautious = true;
        let cases = [
            ("plain", base()),
            ("clipped", base().clip_global_norm(0.5)),
            ("accumulated", accumulate),
            ("by tensor", zero),
            ("cautious", cautious),
            ("max_norm", base().weights(WeightsConfig { max_norm: Some(0.2), ..WeightsConfig::default() })),
            ("clip_value", base().weights(WeightsConfig { clip_value: Some(0.05), ..WeightsConfig::default() })),
            ("lamb", OptimizerConfig::new(Lamb::default()).storage(storage.clone())),
            ("by unit", {
                let mut config = base();
                config.gradient.clip_adaptive = Some(0.5);
                config
            }),
            ("average", base().ema(EmaConfig::default())),
            ("noise", base().noise(NoiseConfig { temperature: 1e-3, seed: 0 })),
        ];
        for (index, (label, config)) in cases.into_iter().enumerate() {
            // By turns, so that each case meets three storages and each storage three cases beside the plain one.
            if index != 0 && (index + turn) % 3 != 0 {
                continue;
            }
            if config.check().is_ok() {
                let place = PLACES[2 + (index + turn) / 3 % 2];
                check(&config, &specs(), place, &format!("{label} {storage:?}"), &mut misses);
            } else {
                assert_eq!(label, "average", "only an average may be refused");
            }
        }
    }
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn a_perturbed_result_is_a_miss() {
    let exact: Vec<f64> = params(&specs())[4].iter().map(|x| f64::from(Format::Bf16.round(*x))).collect();
    let found: Vec<f32> = exact.iter().map(|x| *x as f32).collect();
    let grid = Grid::Float(Format::Bf16);
    let missed = |found: &[f32]| {
        let mut misses = Vec::new();
        compare("p", &grid, found, &exact, &mut misses);
        !misses.is_empty()
    };
    assert!(!missed(&found));
    let steps = |i: usize, count: f64| (exact[i] + count * grid.step(i, exact[i])) as f32;
    let mut one = found.clone();
    one[7] = steps(7, 1.0);
    assert!(!missed(&one), "a tie that went the other way");
    one[7] = steps(7, 2.0);
    assert!(missed(&one));
    // Truncated instead of rounded: half the elements, by one step.
    let truncated: Vec<f32> = (0..found.len()).map(|i| steps(i, (i % 2) as f64)).collect();
    assert!(missed(&truncated));
    let mut nan = found;
    nan[5000] = f32::NAN;
    assert!(missed(&nan));
}

/// Steps of sgd by less than half a step of bf16: only a master keeps them.
#[test]
fn a_master_keeps_what_16_bits_cannot() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [5])];
    for (master, expected) in [(Master::F32, 1.0 - 2.0 / 256.0), (Master::None, 1.0)] {
        for params in [Format::Bf16, Format::F16] {
            let lr = if params == Format::Bf16 { 1.0 / 640.0 } else { 1.0 / 5120.0 };
            let storage = StorageConfig { params, master: Some(master), ..StorageConfig::default() };
            let config = OptimizerConfig::new(Sgd { lr, ..Sgd::default() }).storage(storage);
            let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0; 5]], Place::OneBuffer);
            for _ in 0..5 {
                model.step(&[vec![1.0; 5]]);
            }
            let expected = if params == Format::F16 && master == Master::F32 { 1.0 - 1.0 / 1024.0 } else { expected };
            assert_eq!(model.params(), [vec![expected as f32; 5]], "{master:?} {params:?}");
            model.assert_guards();
        }
    }
}

#[test]
fn parameters_that_the_caller_writes_replace_their_master() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [4])];
    let storage = StorageConfig { params: Format::Bf16, ..StorageConfig::default() };
    let config = OptimizerConfig::new(Sgd { lr: 1.0 / 1024.0, ..Sgd::default() }).storage(storage);
    let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0; 4]], Place::Arena);
    model.step(&[vec![1.0; 4]]);
    let master = |model: &Model| model.optimizer.state_blocking().unwrap().tensors[0].slots[0].1.clone();
    assert_eq!(master(&model), [1.0 - 1.0 / 1024.0; 4]);
    model.write_params(&[vec![2.0, 1.0, 1.0, -3.0]]);
    model.step(&[vec![1.0; 4]]);
    // The second and third hold what they held: their copies go on.
    assert_eq!(master(&model), [2.0, 1.0 - 1.0 / 1024.0, 1.0 - 1.0 / 1024.0, -3.0].map(|p: f32| p - 1.0 / 1024.0));
}

#[test]
fn a_saved_state_goes_on_to_the_same_bits() {
    let gpu = gpu();
    let specs = specs();
    for storage in verify::storages() {
        let config = OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage.clone());
        let mut whole = Model::new(&gpu, &config, &specs, &params(&specs), Place::OneBuffer);
        let step = |model: &mut Model, step: u64| model.step(&gradients(&specs, step));
        (0..3).for_each(|s| step(&mut whole, s));
        let saved = whole.optimizer.checkpoint_blocking().unwrap();
        let read = {
            let bytes = saved.to_safetensors().unwrap();
            wgpu_optim::Checkpoint::from_safetensors(&bytes, whole.optimizer.plan()).unwrap()
        };
        assert_eq!(read, saved, "{storage:?}");
        (3..6).for_each(|s| step(&mut whole, s));
        let mut resumed = Model::new(&gpu, &config, &specs, &draw(&specs, 9, 1.0), Place::Arena);
        step(&mut resumed, 50);
        resumed.optimizer.load_checkpoint(&read).unwrap();
        (3..6).for_each(|s| step(&mut resumed, s));
        assert_eq!(whole.bits(), resumed.bits(), "{storage:?}");
        resumed.assert_guards();
    }
}

#[test]
fn the_order_of_tensors_changes_no_bit() {
    let gpu = gpu();
    let storage = StorageConfig { params: Format::Bf16, rounding: Rounding::Stochastic, ..StorageConfig::default() };
    let config = OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() })
        .storage(StorageConfig { state: StateFormat::Bf16, ..storage });
    let run = |order: &[usize]| {
        let all = specs();
        let specs: Vec<_> = order.iter().map(|t| all[*t].clone()).collect();
        let pick = |values: Vec<Vec<f32>>| order.iter().map(|t| values[*t].clone()).collect::<Vec<_>>();
        let mut model = Model::new(&gpu, &config, &specs, &pick(params(&all)), Place::Arena);
        for step in 0..3 {
            model.step(&pick(gradients(&all, step)));
        }
        let params = model.params();
        let mut by_name: Vec<_> = specs.iter().map(|s| s.name.clone()).zip(params).collect();
        by_name.sort_by(|a, b| a.0.cmp(&b.0));
        by_name
    };
    assert_eq!(run(&[0, 1, 2, 3, 4, 5]), run(&[4, 2, 5, 0, 3, 1]));
    let other = OptimizerConfig { storage: StorageConfig { seed: 1, ..config.storage.clone() }, ..config.clone() };
    let seeds = [&config, &other].map(|config| {
        let mut model = Model::new(&gpu, config, &specs(), &params(&specs()), Place::Arena);
        model.step(&gradients(&specs(), 0));
        model.params()
    });
    assert_ne!(seeds[0], seeds[1]);
}

/// The mean of many draws is the exact update, in the kernel as in `src/storage/noise.rs`.
#[test]
fn stochastic_rounding_is_right_on_average() {
    let gpu = gpu();
    let count = 100_000usize;
    let specs = [TensorSpec::new("w", [count as u64])];
    let storage = StorageConfig { params: Format::Bf16, rounding: Rounding::Stochastic, ..StorageConfig::default() };
    // 1 - lr lies a tenth of the way between two numbers of bf16.
    for share in [0.1, 0.5, 0.9] {
        let lr = (1.0 - share) / 256.0;
        let config = OptimizerConfig::new(Sgd { lr, ..Sgd::default() }).storage(storage.clone());
        let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0; count]], Place::Arena);
        model.step(&[vec![1.0; count]]);
        let params = model.params().remove(0);
        let up = params.iter().filter(|p| **p == 1.0).count() as f64;
        assert!(params.iter().all(|p| *p == 1.0 || *p == 1.0 - 1.0 / 256.0));
        let z = (up - share * count as f64) / (share * (1.0 - share) * count as f64).sqrt();
        assert!(z.abs() < 4.0, "share {share}: z = {z}");
    }
}

#[test]
fn the_norm_of_f16_gradients_does_not_overflow_and_their_infinity_skips() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [70_001])];
    let storage = StorageConfig { gradients: Format::F16, ..StorageConfig::default() };
    let config = OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).storage(storage).clip_global_norm(1.0);
    let mut model = Model::new(&gpu, &config, &specs, &[vec![0.0; 70_001]], Place::Arena);
    model.step(&[vec![65_504.0; 70_001]]);
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    let exact = 65_504.0 * 70_001f64.sqrt();
    assert!((report.global_norm.unwrap() - exact).abs() < 1e-6 * exact, "{report:?}");
    // Subnormal numbers of f16 count as what they are.
    model.step(&[vec![2f32.powi(-24); 70_001]]);
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    let exact = 2f64.powi(-24) * 70_001f64.sqrt();
    assert!((report.global_norm.unwrap() - exact).abs() < 1e-6 * exact, "{report:?}");
    for bad in [f32::INFINITY, f32::NAN, f32::NEG_INFINITY] {
        let mut gradient = vec![1.0; 70_001];
        gradient[70_000] = bad;
        let before = model.params();
        model.step(&[gradient]);
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        assert!(report.skipped && report.nonfinite == 1, "{bad}: {report:?}");
        assert_eq!(model.params(), before);
    }
}

/// Gradients of 1e-7 vanish in f16 unless the loss is scaled.
#[test]
fn a_loss_scale_saves_small_gradients_in_f16() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [9])];
    let step = |loss_scale: Option<f64>| {
        let storage = StorageConfig { params: Format::F16, gradients: Format::F16, ..StorageConfig::default() };
        let mut config = OptimizerConfig::new(Sgd { lr: 1e6, ..Sgd::default() }).storage(storage);
        config.gradient.loss_scale = loss_scale.map(LossScale::Fixed);
        let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0; 9]], Place::Separate);
        model.step(&[vec![1e-8 * loss_scale.unwrap_or(1.0) as f32; 9]]);
        model.params().remove(0)
    };
    assert_eq!(step(None), [1.0; 9]);
    let scaled = step(Some(65_536.0));
    assert!(scaled.iter().all(|p| (p - 0.99).abs() < 1e-3), "{scaled:?}");
}

#[test]
fn groups_and_small_tensors_have_storage_of_their_own() {
    let specs = [("embedding.weight", 5000u64), ("layer.weight", 5000), ("layer.bias", 100)]
        .map(|(name, n)| TensorSpec::new(name, [n]));
    let storage = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
    let config = OptimizerConfig::new(AdamW::default())
        .storage(storage)
        .group(Group::matching("embedding.*").set("state", "f32").set("params", "bf16"));
    let plan = Plan::new(&config, &specs).unwrap();
    let formats = |t: usize| plan.variant_of(t).formats().collect::<Vec<_>>();
    assert_eq!(formats(0), [StateFormat::F32; 3]);
    assert_eq!(formats(1), [StateFormat::Q8; 2]);
    assert_eq!(formats(2), [StateFormat::F32; 2]);
    let mut misses = Vec::new();
    PLACES.into_iter().for_each(|place| check(&config, &specs, place, "groups", &mut misses));
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

/// Bytes a parameter of AdamW, from the buffers that are allocated.
#[test]
fn storage_takes_the_bytes_that_the_docs_say() {
    let gpu = gpu();
    let n = 1u64 << 20;
    let bf16 = StorageConfig {
        params: Format::Bf16,
        gradients: Format::Bf16,
        state: StateFormat::Bf16,
        ..StorageConfig::default()
    };
    let stochastic = StorageConfig { rounding: Rounding::Stochastic, ..bf16.clone() };
    let q8 = StorageConfig { state: StateFormat::Q8, ..stochastic.clone() };
    let cases = [
        (StorageConfig::default(), 16.0),
        (StorageConfig { state: StateFormat::F32, ..bf16.clone() }, 16.0),
        (bf16, 12.0),
        (stochastic, 8.0),
        (q8, 6.0 + 2.0 * 4.0 / 256.0),
    ];
    for (storage, expected) in cases {
        let config = OptimizerConfig::new(AdamW::default()).storage(storage.clone());
        let specs = [TensorSpec::new("w", [n])];
        let arena = wgpu_optim::Arena::for_config(&gpu, &config, specs.clone()).unwrap();
        let optimizer = wgpu_optim::Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
        let tensor = &arena.tensors()[0];
        let own = tensor.params.buffer.size() + tensor.gradient.as_ref().unwrap().buffer.size();
        let resident = own + optimizer.layout().state_bytes();
        assert_eq!(resident as f64 / n as f64, expected, "{storage:?}");
        assert_eq!(optimizer.plan().bytes_resident(), resident);
    }
}

#[test]
fn weights_and_their_average_are_swapped_without_a_loss() {
    let gpu = gpu();
    let specs = specs();
    let storage = StorageConfig { params: Format::F16, ..StorageConfig::default() };
    let config = OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() })
        .storage(storage)
        .ema(EmaConfig { decay: 0.5, ..EmaConfig::default() });
    let mut model = Model::new(&gpu, &config, &specs, &params(&specs), Place::OneBuffer);
    (0..3).for_each(|s| model.step(&gradients(&specs, s)));
    let before = model.bits();
    let optimizer = &mut model.optimizer;
    submit(&gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
    let during = model.bits();
    assert_ne!(before, during);
    let optimizer = &mut model.optimizer;
    submit(&gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
    assert_eq!(before, model.bits());
    model.assert_guards();
}
