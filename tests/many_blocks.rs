//! Models of so many blocks that their parts are added up by groups first: what the sums decide is the CPU's.

mod support;

use support::model::{Model, Place};
use support::oracle::Run;
use support::own_gpu;
use wgpu_optim::rules::{Lamb, Sgd};
use wgpu_optim::{Gpu, GradientConfig, HealthConfig, OptimizerConfig, TensorSpec, WeightsConfig};

/// 4,100 blocks in one tensor, between two short ones.
const SIZES: [u64; 3] = [5, 4100 * 4096 - 3, 4099];

fn specs() -> Vec<TensorSpec> {
    SIZES.iter().map(|n| TensorSpec::new(format!("t{n}"), [*n])).collect()
}

/// Of a few values only, so that what is left out at the end shows; the last block's are larger.
fn values(seed: u64) -> Vec<Vec<f32>> {
    let of = |n: &u64| {
        let value = |i: u64| ((i * 7 + seed) % 13) as f32 / 16.0 - 0.25;
        (0..*n).map(|i| if i + 4096 > *n { 64.0 * value(i) } else { value(i) }).collect()
    };
    SIZES.iter().map(of).collect()
}

fn gpu(threads: u32) -> Gpu {
    let gpu = own_gpu();
    gpu.set_workgroup_size(threads).unwrap();
    gpu
}

fn some(gradients: &[Vec<f32>]) -> Vec<Option<Vec<f32>>> {
    gradients.iter().cloned().map(Some).collect()
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1e-3)).fold(0.0, f32::max);
        assert!(off < 1e-5, "{what}: off by {off}");
    }
}

#[test]
fn sums_of_many_blocks_decide_what_the_cpus_decide() {
    let sgd = || OptimizerConfig::new(Sgd { lr: 0.5, ..Sgd::default() });
    let tensor_norm = GradientConfig { clip_tensor_norm: Some(3.0), ..GradientConfig::default() };
    let weights = WeightsConfig { max_norm: Some(100.0), ..WeightsConfig::default() };
    let configs = [
        ("global norm", sgd().clip_global_norm(3.0)),
        ("tensor norm", sgd().gradient(tensor_norm)),
        ("weights", sgd().weights(weights)),
        ("lamb", OptimizerConfig::new(Lamb::default())),
    ];
    let (start, gradients) = (values(1), values(5));
    let mut bad = gradients.clone();
    *bad[1].last_mut().unwrap() = f32::NAN;
    for (what, config) in configs {
        let mut on_cpu = Run::<f32>::new(&config, &specs(), &start);
        on_cpu.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
        let expected = on_cpu.step(&some(&gradients));
        for threads in if what == "global norm" { vec![8, 256] } else { vec![256] } {
            let what = format!("{what}, {threads} threads");
            let gpu = gpu(threads);
            let mut model = Model::new(&gpu, &config, &specs(), &start, Place::Arena);
            model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
            // In the last block of all but one: the step is skipped.
            model.step(&bad);
            let found = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((found.skipped, found.nonfinite), (true, 1), "{what}");
            model.step(&gradients);
            let found = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((found.skipped, found.nonfinite), (false, 0), "{what}");
            let off = |a: Option<f64>, b: Option<f64>| (a.unwrap_or(0.0) - b.unwrap_or(0.0)).abs() / b.unwrap_or(1.0);
            assert!(off(found.global_norm, expected.global_norm) < 1e-6, "{what}: {found:?} for {expected:?}");
            assert_close(&model.params(), &on_cpu.params, &what);
            let health = model.optimizer.health().unwrap().unwrap();
            for (seen, expected) in health.tensors.iter().zip(&on_cpu.optimizer.health().unwrap().tensors) {
                // A change of a thousandth of a weight is rounded to 6e-5 of itself, on either side.
                let same = |a: f64, b: f64| (a / b - 1.0).abs() < 2e-4;
                assert!(same(seen.gradient_norm, expected.gradient_norm), "{what}: {seen:?} for {expected:?}");
                let [ratio, expected_ratio] = [seen, expected].map(|health| health.update_ratio.unwrap());
                assert!(same(ratio, expected_ratio), "{what}: {seen:?} for {expected:?}");
            }
        }
    }
}

#[test]
fn the_memory_told_beforehand_holds_the_groups() {
    let gpu = own_gpu();
    let config = OptimizerConfig::new(Lamb::default());
    let told = wgpu_optim::Optimizer::memory(&config, &specs(), gpu.limits()).unwrap();
    let arena = wgpu_optim::Arena::new(&gpu, specs()).unwrap();
    let before = gpu.objects_created().bytes;
    let mut optimizer = wgpu_optim::Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
    support::submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    assert_eq!(gpu.objects_created().bytes - before, told.total());
}
