//! Tensors past a device's limits: chunks at the binding limit, segments at the buffer limit, a
//! second dimension at the limit of workgroups. On devices opened with low limits, so that small
//! tensors pass them; one run at the real ones.

mod support;

use support::model::{Model, PLACES, Place};
use support::oracle::Oracle;
use support::{Numbers, gpu, wide};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::wgpu::{self, Features, Limits};
use wgpu_optim::{Arena, Error, Gpu, Optimizer, OptimizerConfig, TensorSpec};

/// The caller's own device, with WebGPU's default limits changed by `change` and no feature.
fn limited(change: impl FnOnce(&mut Limits)) -> Gpu {
    let adapter = pollster::block_on(wgpu_optim::gpu::adapters()).into_iter().next().expect("an adapter");
    let mut required_limits = Limits::default();
    change(&mut required_limits);
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device with low limits");
    assert_eq!(device.features(), Features::empty());
    device.on_uncaptured_error(std::sync::Arc::new(|error| panic!("{error}")));
    Gpu::new(device, queue)
}

const MIB: u64 = 1 << 20;

/// The step table of one group takes 213 KiB, and the window of a tensor its state besides.
fn low(limits: &mut Limits) {
    limits.max_storage_buffer_binding_size = MIB / 2;
}

fn config() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0)
}

fn draw(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs.iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

/// Three steps against the oracle; the model, for a look at its layout.
fn check(gpu: &Gpu, specs: &[TensorSpec], place: Place) -> Model {
    let params: Vec<Vec<f32>> = draw(specs, 1).into_iter().map(|p| p.iter().map(|x| x / 32.0).collect()).collect();
    let mut model = Model::new(gpu, &config(), specs, &params, place);
    let mut oracle = Oracle::new(&config(), specs, &params);
    for step in 0..3 {
        let gradients = draw(specs, 10 + step);
        model.step(&gradients);
        oracle.step_all(&gradients);
    }
    oracle.check(&model.optimizer, &format!("{place:?}"));
    model.assert_guards();
    model
}

#[test]
fn a_tensor_past_the_binding_limit_is_split() {
    let gpu = limited(low);
    // 1.6 MB of parameters between small neighbours.
    let specs = [TensorSpec::new("a", [33]), TensorSpec::new("long", [400, 1001]), TensorSpec::new("b", [4097])];
    for place in PLACES {
        let model = check(&gpu, &specs, place);
        let windows = &model.optimizer.layout().windows;
        assert!(windows.len() >= 4, "{place:?}: {} windows", windows.len());
    }
}

#[test]
fn an_arena_past_the_buffer_limit_takes_several_buffers() {
    let gpu = limited(|limits| {
        low(limits);
        limits.max_buffer_size = MIB;
    });
    let specs: Vec<_> = (0..9).map(|i| TensorSpec::new(format!("t{i}"), [50_000 + i])).collect();
    let model = check(&gpu, &specs, Place::Arena);
    let buffers = model.optimizer.tensors().iter().filter(|t| t.params.offset == 0).count();
    assert!(buffers >= 4, "{buffers} buffers");
    check(&gpu, &specs, Place::Separate);

    let error = Arena::new(&gpu, [TensorSpec::new("vast", [MIB / 4 + 1])]).unwrap_err();
    assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "vast"), "{error}");
}

#[test]
fn more_workgroups_than_one_dimension_takes() {
    let gpu = limited(|limits| limits.max_compute_workgroups_per_dimension = 16);
    // 1, 15, 16, 17, 33 and 245 blocks by themselves, which a second dimension fills more or less.
    for blocks in [1, 15, 16, 17, 33, 245] {
        for place in [Place::Separate, Place::Arena] {
            let model = check(&gpu, &[TensorSpec::new("w", [blocks * 4096 - 7])], place);
            assert_eq!(model.optimizer.layout().blocks.len() as u64, blocks);
        }
    }
}

#[test]
fn both_limits_at_once() {
    let gpu = limited(|limits| {
        low(limits);
        limits.max_compute_workgroups_per_dimension = 8;
    });
    let specs = [TensorSpec::new("a", [100_001]), TensorSpec::new("b", [7]), TensorSpec::new("c", [150_000])];
    PLACES.into_iter().for_each(|place| drop(check(&gpu, &specs, place)));
}

#[test]
fn a_coarse_offset_alignment() {
    let gpu = limited(|limits| {
        low(limits);
        limits.min_storage_buffer_offset_alignment = 256;
    });
    assert_eq!(gpu.limits().alignment, 256);
    let specs = [TensorSpec::new("a", [5]), TensorSpec::new("long", [200_003]), TensorSpec::new("b", [3])];
    PLACES.into_iter().for_each(|place| drop(check(&gpu, &specs, place)));
}

#[test]
fn webgpus_defaults_and_no_feature_suffice() {
    let gpu = limited(|_| {});
    let specs = [TensorSpec::new("w", [4099]), TensorSpec::new("b", [3])];
    for rule in wgpu_optim::rules::all() {
        let config = OptimizerConfig::from_boxed(rule).clip_global_norm(1.0);
        for place in PLACES {
            let mut model = Model::new(&gpu, &config, &specs, &draw(&specs, 1), place);
            model.optimizer.set_zero_gradients(true).unwrap();
            model.step(&draw(&specs, 2));
            assert!(!model.optimizer.wait_for_report().unwrap().unwrap().skipped);
        }
    }
}

#[test]
fn limits_too_low_for_the_tables_are_an_error() {
    let gpu = limited(|limits| limits.max_storage_buffer_binding_size = 64 << 10);
    let arena = Arena::new(&gpu, [TensorSpec::new("w", [10])]).unwrap();
    let error = Optimizer::new(&gpu, &config(), arena.tensors().to_vec()).unwrap_err();
    assert!(error.to_string().contains("the step table"), "{error}");
}

/// Past 16.8 million elements, where launches of 65,535 workgroups of 256 stop.
#[test]
fn seventeen_million_elements() {
    const LEN: usize = 17_000_003;
    let gpu = gpu();
    let config = OptimizerConfig::new(Sgd { lr: 0.5, ..Sgd::default() }).clip_global_norm(1e9);
    let specs = [TensorSpec::new("w", [LEN as u64])];
    let params: Vec<f32> = (0..LEN).map(|i| (i % 1021) as f32).collect();
    let gradient: Vec<f32> = (0..LEN).map(|i| (i % 509) as f32 - 254.0).collect();
    let mut model = Model::new(&gpu, &config, &specs, std::slice::from_ref(&params), Place::Arena);
    model.step(std::slice::from_ref(&gradient));
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    let norm = wide(&gradient).iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!((report.global_norm.unwrap() - norm).abs() < 1e-6 * norm, "{report:?}, expected {norm}");
    // Halves and small integers: exact.
    let wrong = model.params()[0].iter().zip(&params).zip(&gradient).position(|((p, old), g)| *p != old - 0.5 * g);
    assert_eq!(wrong, None);
}
