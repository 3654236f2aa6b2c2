//! A block becomes the same bits whatever the number of threads that serve it. The scan's sums are added up in
//! another order then, so gradients are not clipped here.

use crate::config::{EmaConfig, NoiseConfig, OptimizerConfig};
use crate::error::Error;
use crate::gpu::{Arena, Gpu, Optimizer};
use crate::rules::AdamW;
use crate::shader;
use crate::state::OptimizerState;
use crate::storage::{Format, Master, Rounding, StateFormat, StorageConfig};
use crate::tensor::TensorSpec;

/// All that a run leaves, as stored.
type Outcome = (Vec<Vec<f32>>, OptimizerState);

/// Around a vector, the scale of q8, the block, and what a workgroup of each size takes at a time.
fn specs() -> Vec<TensorSpec> {
    [1u64, 3, 255, 257, 513, 1023, 4096, 5001, 8193].map(|n| TensorSpec::new(format!("t{n}"), [n])).into()
}

/// Numbers without a pattern in -1..1: the upper bits of a multiplicative hash (Knuth 1998, 6.4).
fn number(tensor: usize, element: usize, step: u32) -> f32 {
    let mixed = (element as u32 + 1).wrapping_mul(0x9e37_79b9) ^ (tensor as u32 + 977 * step).wrapping_mul(0x85eb_ca6b);
    (mixed.wrapping_mul(0xc2b2_ae35) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn values(step: u32) -> Vec<Vec<f32>> {
    let one =
        |(t, spec): (usize, &TensorSpec)| (0..spec.elements().unwrap() as usize).map(|i| number(t, i, step)).collect();
    specs().iter().enumerate().map(one).collect()
}

fn run(gpu: &Gpu, config: &OptimizerConfig, threads: u32) -> Outcome {
    let arena = Arena::for_config(gpu, config, specs()).unwrap();
    let write = |step: u32, gradients: bool| {
        for (spec, values) in specs().iter().zip(values(step)) {
            let written = match gradients {
                true => arena.write_gradient(&spec.name, &values),
                false => arena.write_params(&spec.name, &values),
            };
            written.unwrap();
        }
    };
    write(0, false);
    let mut optimizer = Optimizer::new(gpu, config, arena.tensors().to_vec()).unwrap();
    optimizer.kernels.set_workgroup(threads);
    optimizer.build_kernels().unwrap();
    for step in 1..4 {
        write(step, true);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        optimizer.step(&mut encoder).unwrap();
        gpu.queue().submit([encoder.finish()]);
    }
    (optimizer.params_blocking().unwrap(), optimizer.state_blocking().unwrap())
}

fn storages() -> Vec<StorageConfig> {
    use Format::{Bf16, F16};
    let of = |params, state| StorageConfig { params, gradients: params, state, ..StorageConfig::default() };
    let stochastic = |state| StorageConfig { rounding: Rounding::Stochastic, seed: 7, ..of(Bf16, state) };
    vec![
        StorageConfig::default(),
        of(F16, StateFormat::Bf16),
        stochastic(StateFormat::Bf16),
        stochastic(StateFormat::Q8),
        StorageConfig { master: Some(Master::None), ..of(F16, StateFormat::Q8) },
    ]
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
    let mut compared = 0;
    for storage in storages() {
        let config = OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage.clone());
        let config = config.noise(NoiseConfig { temperature: 1e-3, seed: 7 });
        let config = if storage == StorageConfig::default() { config.ema(EmaConfig::default()) } else { config };
        let usual = run(&gpu, &config, shader::WORKGROUP);
        assert!(usual.1.steps_taken == 3 && usual.0 != values(0), "{storage:?} took no steps");
        // 8 bits take whole groups of 256 elements at a time.
        let fewest = if storage.state == StateFormat::Q8 { shader::whole_scales(1) } else { 8 };
        for threads in [8, 32, 64, 128, 192].into_iter().filter(|threads| *threads >= fewest) {
            let other = run(&gpu, &config, threads);
            assert!(other == usual, "{threads} threads instead of {}, {storage:?}", shader::WORKGROUP);
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 5 + 2 * 3);
}

#[test]
fn workgroups_have_a_choice_of_sizes() {
    let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
    let cpu = gpu.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
    assert_eq!(gpu.workgroup_size(), if cpu { 8 } else { 256 });
    for threads in [0, 4, 24, 512] {
        let error = gpu.set_workgroup_size(threads).unwrap_err();
        assert!(
            matches!(&error, Error::Call { problem, .. } if problem.contains(&format!("of {threads} threads: 8, 16, 32"))),
            "{error}"
        );
    }
    gpu.set_workgroup_size(64).unwrap();
    assert_eq!(gpu.clone().workgroup_size(), 64);
}
