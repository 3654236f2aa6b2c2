//! No GPU at all: the same configurations, rules and schedules step over `ndarray` views. Fits a plane
//! through noisy points by mini-batches.
//!
//! `cargo run --release --example cpu_only`

use ndarray::{Array1, Array2, array, s};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{Group, OptimizerConfig, TensorSpec};

const POINTS: usize = 1024;
const BATCH: usize = 64;
const EPOCHS: usize = 30;

/// What generated the points.
pub const SLOPES: [f32; 3] = [2.0, -1.0, 0.5];
pub const INTERCEPT: f32 = 4.0;

/// The slopes and the intercept, as fitted.
pub fn run() -> wgpu_optim::Result<(Array1<f32>, f32)> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let x = Array2::from_shape_simple_fn((POINTS, 3), || random.random_range(-1.0..1.0f32));
    let noise = Array1::from_shape_simple_fn(POINTS, || random.random_range(-0.1..0.1f32));
    let y = x.dot(&Array1::from(SLOPES.to_vec())) + INTERCEPT + noise;

    let steps = (EPOCHS * POINTS / BATCH) as u64;
    let config = OptimizerConfig::new(AdamW { lr: 0.1, ..AdamW::default() })
        .group(Group::matching("intercept").set("weight_decay", 0.0))
        .clip_global_norm(1.0)
        .schedule(Cosine { total_steps: steps, min_lr: 0.0 });
    let specs = [TensorSpec::new("slopes", [3]), TensorSpec::new("intercept", [1])];
    let mut optimizer = CpuOptimizer::<f32>::new(&config, &specs)?;

    let (mut slopes, mut intercept) = (Array1::<f32>::zeros(3), Array1::<f32>::zeros(1));
    for epoch in 1..=EPOCHS {
        let mut squares = 0.0;
        for first in (0..POINTS).step_by(BATCH) {
            let (x, y) = (x.slice(s![first..first + BATCH, ..]), y.slice(s![first..first + BATCH]));
            let residual: Array1<f32> = x.dot(&slopes) + intercept[0] - y;
            squares += residual.dot(&residual);
            let slopes_gradient = 2.0 / BATCH as f32 * x.t().dot(&residual);
            let intercept_gradient = array![2.0 / BATCH as f32 * residual.sum()];
            optimizer.step(&mut [
                CpuTensor::new(slopes.view_mut().into_dyn(), slopes_gradient.view().into_dyn()),
                CpuTensor::new(intercept.view_mut().into_dyn(), intercept_gradient.view().into_dyn()),
            ])?;
        }
        if epoch % 10 == 0 {
            println!("epoch {epoch}: mean squared error {:.5}", squares / POINTS as f32);
        }
    }
    Ok((slopes, intercept[0]))
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> wgpu_optim::Result<()> {
    let (slopes, intercept) = run()?;
    println!("slopes {slopes:.3}, intercept {intercept:.3}; the points came from {SLOPES:?} and {INTERCEPT}");
    Ok(())
}
