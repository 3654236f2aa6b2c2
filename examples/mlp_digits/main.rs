//! The training loop of `wgpu-optim train` as library code: a small network learns handwritten digits,
//! forward, backward and update on the GPU. Nothing is read back but what became of each image, once an
//! epoch.
//!
//! `cargo run --release --example mlp_digits`

mod network;

use network::{IMAGES, Network, WIDTHS};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::wgpu;
use wgpu_optim::{Arena, Gpu, Group, Optimizer, OptimizerConfig, TensorSpec};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 32;
/// Images that no training sees.
pub const HELD_BACK: usize = 360;

/// An epoch: the mean loss while it trained, and how many of the images held back it recognises then.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    pub loss: f32,
    pub recognised: usize,
}

/// Trains for so many epochs.
pub fn run(gpu: &Gpu, epochs: usize) -> Result<Vec<Epoch>> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let arena = Arena::new(gpu, specs())?;
    for tensor in arena.tensors().iter().filter(|t| t.spec.shape.len() == 2) {
        // Uniform within ±√(6/inputs) (He et al. 2015). Biases start at zero, as new memory does.
        let bound = (6.0 / tensor.spec.shape[1] as f32).sqrt();
        let weights: Vec<_> = (0..tensor.params.size / 4).map(|_| random.random_range(-bound..bound)).collect();
        arena.write_params(&tensor.spec.name, &weights)?;
    }
    // The last images in the order are those held back.
    let mut order: Vec<u32> = (0..IMAGES as u32).collect();
    order.shuffle(&mut random);
    let training = IMAGES - HELD_BACK;

    let steps = epochs * training.div_ceil(BATCH);
    let config = OptimizerConfig::new(AdamW { lr: 5e-3, ..AdamW::default() })
        .group(Group::matching("*.bias").set("weight_decay", 0.0))
        .schedule(Cosine { total_steps: steps as u64, min_lr: 0.0 });
    let mut optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;
    let network = Network::new(gpu, &arena, HELD_BACK)?;

    let mut history = Vec::new();
    for _ in 0..epochs {
        order[..training].shuffle(&mut random);
        network.set_order(&order);
        for first in (0..training).step_by(BATCH) {
            let rows = BATCH.min(training - first);
            network.set_batch(first, rows);
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            network.record_forward(&mut encoder, rows);
            network.record_backward(&mut encoder, rows);
            optimizer.step(&mut encoder)?;
            gpu.queue().submit([encoder.finish()]);
        }
        network.set_batch(training, HELD_BACK);
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        network.record_forward(&mut encoder, HELD_BACK);
        gpu.queue().submit([encoder.finish()]);

        let outcomes = network.outcomes()?;
        let loss = outcomes[..training].iter().map(|o| o.loss).sum::<f32>() / training as f32;
        history.push(Epoch { loss, recognised: outcomes[training..].iter().filter(|o| o.correct).count() });
    }
    Ok(history)
}

/// Each layer's weight, a row for each output as PyTorch's, and its bias.
fn specs() -> Vec<TensorSpec> {
    let layer = |l: usize| {
        let (inputs, outputs) = (WIDTHS[l - 1] as u64, WIDTHS[l] as u64);
        let weight = TensorSpec::new(format!("layer{l}.weight"), [outputs, inputs]);
        [weight, TensorSpec::new(format!("layer{l}.bias"), [outputs])]
    };
    (1..WIDTHS.len()).flat_map(layer).collect()
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> Result<()> {
    for (number, Epoch { loss, recognised }) in (1..).zip(run(&Gpu::headless()?, 30)?) {
        println!("epoch {number:2}: loss {loss:.4}, {recognised} of {HELD_BACK} held-back images recognised");
    }
    Ok(())
}
