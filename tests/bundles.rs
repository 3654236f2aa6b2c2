//! Tensors in buffers of their own share dispatches where the device has arrays of bindings: to the bits of the same
//! steps without them.
//!
//! On an adapter that has no such arrays both sides go one by one, and each test says so. With
//! `WGPU_OPTIM_NEEDS_ARRAYS` set that is a failure: `scripts/test_with_arrays` sets it.

mod support;

use support::model::{Model, Place, buffer};
use support::oracle::Oracle;
use support::watched::{Watched, adapter};
use support::{Numbers, own_gpu, submit};
use wgpu_optim::rules::{AdamW, Lamb, Lion, ScheduleFreeAdamW, Sgd};
use wgpu_optim::storage::{Format, StateFormat};
use wgpu_optim::{
    EmaConfig, Gpu, GradientConfig, Group, NoiseConfig, Optimizer, OptimizerConfig, Slice, StorageConfig, Tensor,
    TensorSpec, WeightsConfig,
};

/// Whole vectors and ends within one, a block and several.
const SIZES: [u64; 12] = [1, 3, 4, 7, 300, 4095, 4096, 4097, 8192, 12_289, 5, 260];

/// A device with what the adapter offers, and one without arrays of bindings.
fn devices() -> [Gpu; 2] {
    let with = own_gpu();
    if with.limits().bundle == 0 {
        let missing = "this adapter has no arrays of bindings";
        assert!(std::env::var_os("WGPU_OPTIM_NEEDS_ARRAYS").is_none(), "{missing}");
        eprintln!("not checked: {missing}");
    }
    let without = Watched::of(&adapter()).gpu;
    without.set_workgroup_size(with.workgroup_size()).unwrap();
    assert_eq!(without.limits().bundle, 0);
    [with, without]
}

fn specs() -> Vec<TensorSpec> {
    let name = |i: usize| if i.is_multiple_of(3) { format!("{i}.bias") } else { format!("{i}.weight") };
    SIZES.iter().enumerate().map(|(i, n)| TensorSpec::new(name(i), [*n])).collect()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    SIZES.iter().map(|n| numbers.take(*n as usize)).collect()
}

fn storage(params: Format, gradients: Format, state: StateFormat) -> StorageConfig {
    StorageConfig { params, gradients, state, ..StorageConfig::default() }
}

/// What takes each of the kernels that reach spans.
fn configurations() -> Vec<(&'static str, OptimizerConfig)> {
    let adamw = || OptimizerConfig::new(AdamW::default());
    let gradient = |gradient| adamw().gradient(gradient);
    let stored = |mut config: OptimizerConfig, storage| {
        config.storage = storage;
        config
    };
    let mut cautious = adamw();
    cautious.common.cautious = true;
    let norm = WeightsConfig { max_norm: Some(0.5), ..WeightsConfig::default() };
    let master = StorageConfig { params: Format::F16, ..StorageConfig::default() };
    vec![
        ("adamw", adamw()),
        ("no state", OptimizerConfig::new(Sgd::default())),
        ("a global clip", adamw().clip_global_norm(0.1)),
        ("a clip by tensor", gradient(GradientConfig { clip_tensor_norm: Some(0.1), ..Default::default() })),
        ("accumulation", gradient(GradientConfig { accumulate: 2, ..Default::default() })),
        ("measures", OptimizerConfig::new(Lamb::default())),
        ("a cautious mask", cautious),
        ("limits of weights", adamw().weights(norm)),
        ("two rules", adamw().group(Group::matching("*.bias").rule(Lion::default()))),
        ("an average", adamw().ema(EmaConfig::default())),
        ("noise", adamw().noise(NoiseConfig::default())),
        ("averaged iterates", OptimizerConfig::new(ScheduleFreeAdamW::default())),
        ("f16 with a master", stored(adamw(), master)),
        ("narrow gradients and state", stored(adamw(), storage(Format::F32, Format::Bf16, StateFormat::Bf16))),
        ("q8", stored(adamw(), storage(Format::F32, Format::F32, StateFormat::Q8))),
    ]
}

/// Three steps, in the second of which two tensors have no gradient, and what follows from them.
fn run(gpu: &Gpu, config: &OptimizerConfig, place: Place, clear: bool) -> Vec<Vec<u32>> {
    let params: Vec<Vec<f32>> = values(1).into_iter().map(|p| p.into_iter().map(|x| x / 32.0).collect()).collect();
    let mut model = Model::new(gpu, config, &specs(), &params, place);
    model.optimizer.set_zero_gradients(clear).unwrap();
    for step in 0..4 {
        let gradients = values(10 + step).into_iter().enumerate();
        model.step_some(&gradients.map(|(t, g)| Some(g).filter(|_| step != 1 || t % 5 != 2)).collect::<Vec<_>>());
    }
    if config.ema.is_some() {
        submit(gpu, |encoder| model.optimizer.swap_ema(encoder).unwrap());
    }
    model.assert_guards();
    let mut bits = model.bits();
    if model.optimizer.plan().averages() {
        submit(gpu, |encoder| model.optimizer.begin_evaluation(encoder).unwrap());
        bits.extend(model.params().iter().map(|p| p.iter().map(|x| x.to_bits()).collect()));
    }
    bits
}

#[test]
fn bundles_give_the_bits_of_single_dispatches() {
    let [with, without] = devices();
    for (index, (label, config)) in configurations().into_iter().enumerate() {
        // The places differ in how gradients are bound, which is the same for all kernels.
        let places = [(Place::Separate, false), (Place::Separate, true), (Place::OneBuffer, false)];
        for (place, clear) in places.into_iter().take(if index == 0 { 3 } else { 1 }) {
            let [ours, single] = [&with, &without].map(|gpu| run(gpu, &config, place, clear));
            assert_eq!(ours, single, "{label}, {place:?}, clear {clear}");
        }
    }
}

#[test]
fn a_thousand_buffers_take_two_bind_groups() {
    let [with, without] = devices();
    let groups = |gpu: &Gpu| {
        let mut tensors = Vec::new();
        for i in 0..1000 {
            let own = || Slice::from(&buffer(gpu, 64));
            tensors.push(Tensor::new(format!("{i}"), [16], own()).with_gradient(own()));
        }
        let mut optimizer = Optimizer::new(gpu, &OptimizerConfig::new(AdamW::default()), tensors).unwrap();
        let before = gpu.objects_created();
        submit(gpu, |encoder| optimizer.step(encoder).unwrap());
        let first = gpu.objects_created();
        submit(gpu, |encoder| optimizer.step(encoder).unwrap());
        assert_eq!(gpu.objects_created(), first, "the second step creates nothing");
        assert_eq!(first.pipelines, before.pipelines, "all pipelines are there from construction");
        first.bind_groups - before.bind_groups
    };
    assert_eq!(groups(&without), 2 * 1000);
    // One for the scan, one for the update.
    let expected = if with.limits().bundle < 1000 { 2 * 1000 } else { 2 };
    assert_eq!(groups(&with), expected);
}

/// All tensors' parameters in one buffer and all gradients in another, in the opposite order: no two lie at the same
/// distance.
#[test]
fn one_pair_of_buffers_is_one_dispatch_wherever_the_gradients_are() {
    let [_, gpu] = devices();
    let config = OptimizerConfig::new(AdamW::default()).clip_global_norm(0.5);
    let sizes: Vec<u64> = (0..400).map(|i| SIZES[i % SIZES.len()].min(600)).collect();
    let mut numbers = Numbers::new(7);
    let [params, gradients] = [(); 2].map(|()| sizes.iter().map(|n| numbers.take(*n as usize)).collect::<Vec<_>>());
    let run = |together: bool, clear: bool| {
        let whole = [(); 2].map(|()| buffer(&gpu, 400 * 4096));
        let slice = |which: usize, place: usize, n: u64| match together {
            true => Slice::new(&whole[which], place as u64 * 4096, n * 4),
            false => Slice::from(&buffer(&gpu, n * 4)),
        };
        let tensors: Vec<_> = (0..400)
            .map(|i| {
                let [own, gradient] = [slice(0, i, sizes[i]), slice(1, 399 - i, sizes[i])];
                gpu.write(&own, &params[i]).unwrap();
                gpu.write(&gradient, &gradients[i]).unwrap();
                Tensor::new(format!("{i}"), [sizes[i]], own).with_gradient(gradient)
            })
            .collect();
        let mut optimizer = Optimizer::new(&gpu, &config, tensors).unwrap();
        optimizer.set_zero_gradients(clear).unwrap();
        let before = gpu.objects_created();
        submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
        let first = gpu.objects_created();
        assert_eq!(first.pipelines, before.pipelines, "all pipelines are there from construction");
        // Again without a few gradients.
        for tensor in [3, 200, 399] {
            optimizer.set_gradient(tensor, None).unwrap();
        }
        submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
        assert_eq!(gpu.objects_created().pipelines, first.pipelines);
        let tensors = optimizer.tensors().to_vec();
        let read = |slice: &Slice| support::model::read_slice(&gpu, slice);
        let bits: Vec<_> = tensors.iter().map(|t| (read(&t.params), t.gradient.as_ref().map(&read))).collect();
        (bits, first.bind_groups - before.bind_groups)
    };
    for clear in [false, true] {
        let [(list, few), (single, many)] = [true, false].map(|together| run(together, clear));
        assert!(list == single, "clear {clear}");
        // By vectors and by words: a scan and an update each.
        assert_eq!((few, many), (4, 2 * 400), "clear {clear}");
    }
}

/// A buffer that is read for one tensor and written for another in the same dispatch.
#[test]
fn a_gradient_may_lie_in_the_buffer_of_another_tensors_parameters() {
    for gpu in devices() {
        let config = OptimizerConfig::new(AdamW::default());
        let specs: Vec<_> = (0..6).map(|i| TensorSpec::new(format!("{i}"), [300])).collect();
        let mut numbers = Numbers::new(3);
        let [params, gradients] = [(); 2].map(|()| specs.iter().map(|_| numbers.take(300)).collect::<Vec<_>>());
        let buffers: Vec<_> = specs.iter().map(|_| buffer(&gpu, 4096)).collect();
        let tensors = specs.iter().enumerate().map(|(i, spec)| {
            let own = Slice::new(&buffers[i], 0, 1200);
            let gradient = Slice::new(&buffers[(i + 1) % 6], 2048, 1200);
            gpu.write(&own, &params[i]).unwrap();
            gpu.write(&gradient, &gradients[i]).unwrap();
            Tensor::new(spec.name.clone(), spec.shape.clone(), own).with_gradient(gradient)
        });
        let mut optimizer = Optimizer::new(&gpu, &config, tensors).unwrap();
        submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
        let mut oracle = Oracle::new(&config, &specs, &params);
        oracle.step_all(&gradients);
        oracle.check(&optimizer, "gradients among parameters");
    }
}

/// Other gradients each step: what binds them is made anew, and never that of another step.
#[test]
fn gradients_bound_elsewhere_are_those_that_count() {
    for gpu in devices() {
        let config = OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0);
        let params = values(1);
        let mut model = Model::new(&gpu, &config, &specs(), &params, Place::Separate);
        let mut oracle = Oracle::new(&config, &specs(), &params);
        for step in 0..20 {
            let gradients = values(50 + step);
            // All of them at first, then one by one.
            let chosen = |t: usize| step < 3 || t as u64 == step % 12;
            for tensor in (0..SIZES.len()).filter(|t| chosen(*t)) {
                let own = buffer(&gpu, 4 * SIZES[tensor]);
                model.gradients[tensor] = Slice::new(&own, 0, 4 * SIZES[tensor]);
                model.optimizer.set_gradient(tensor, Some(model.gradients[tensor].clone())).unwrap();
            }
            model.step(&gradients);
            oracle.step_all(&gradients);
        }
        oracle.check(&model.optimizer, "gradients bound elsewhere");
    }
}
