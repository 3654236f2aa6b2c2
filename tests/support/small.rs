//! A small model of four tensors, and a tensor alone, to step many times.

use wgpu_optim::rules::AdamW;
use wgpu_optim::{Gpu, Optimizer, OptimizerConfig, Slice, TensorSpec};

use super::Numbers;
use super::model::{Model, Packed, Place};
use super::oracle::Oracle;

pub const SIZES: [u64; 4] = [1, 7, 4100, 300];

pub fn specs() -> Vec<TensorSpec> {
    SIZES.iter().enumerate().map(|(i, n)| TensorSpec::new(format!("layer{i}.weight"), [*n])).collect()
}

pub fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    SIZES.iter().map(|n| numbers.take(*n as usize)).collect()
}

pub fn parameters() -> Vec<Vec<f32>> {
    values(1).into_iter().map(|p| p.into_iter().map(|x| x / 32.0).collect()).collect()
}

pub fn gradients(step: usize) -> Vec<Vec<f32>> {
    values(100 + step as u64)
}

/// Bias corrections show a wrong count at once, decay a wrong rate.
pub fn config() -> OptimizerConfig {
    OptimizerConfig::new(AdamW { weight_decay: 0.1, ..AdamW::default() })
}

pub fn model(gpu: &Gpu, config: &OptimizerConfig, place: Place) -> Model {
    Model::new(gpu, config, &specs(), &parameters(), place)
}

pub fn oracle(config: &OptimizerConfig) -> Oracle {
    Oracle::new(config, &specs(), &parameters())
}

/// A tensor of one element: thousands of steps are quick.
pub fn tiny(gpu: &Gpu, config: &OptimizerConfig) -> (Model, Oracle) {
    let specs = [TensorSpec::new("w", [1])];
    let params = [vec![0.5]];
    let model = Model::new(gpu, config, &specs, &params, Place::Arena);
    model.write_gradients(&[vec![0.25]]);
    (model, Oracle::new(config, &specs, &params))
}

/// Slices of fresh buffers, one for each tensor, that hold those gradients.
pub fn fresh(gpu: &Gpu, gradients: &[Vec<f32>], shift: usize) -> (Packed, Vec<Slice>) {
    let packed = Packed::new(gpu, &gradients.iter().map(|g| (g.len(), shift)).collect::<Vec<_>>());
    let slices: Vec<_> = (0..gradients.len()).map(|i| packed.slice(i)).collect();
    for (slice, values) in slices.iter().zip(gradients) {
        gpu.write(slice, values).unwrap();
    }
    (packed, slices)
}

pub fn rebind(optimizer: &mut Optimizer, slices: &[Slice]) {
    for (tensor, slice) in slices.iter().enumerate() {
        optimizer.set_gradient(tensor, Some(slice.clone())).unwrap();
    }
}
