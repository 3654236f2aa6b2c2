//! The training loop of `wgpu-optim train` as library code: a small network learns handwritten digits,
//! forward, backward and update on the GPU. Nothing is read back but what became of each image, once an
//! epoch. The kernels are in `cli/shaders`.
//!
//! `cargo run --release --example mlp_digits`

#[path = "support/kernel.rs"]
mod kernel;

use kernel::{Kernel, buffer, read, record};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{Arena, Gpu, Group, Optimizer, OptimizerConfig, Slice, TensorSpec};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows of 64 pixels, from 0 to 16, and a label; `cli/data/README.md` says where they come from.
static DIGITS: &[u8] = include_bytes!("../cli/data/digits.bin");
const ROW: usize = 65;
const IMAGES: usize = DIGITS.len() / ROW;
/// Images that no training sees.
pub const HELD_BACK: usize = 360;
const BATCH: usize = 32;
/// Values between the layers, from the pixels to the digits.
const WIDTHS: [usize; 4] = [64, 64, 32, 10];

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
    let network = Network::new(gpu, &arena)?;

    let mut history = Vec::new();
    for _ in 0..epochs {
        order[..training].shuffle(&mut random);
        gpu.queue().write_buffer(&network.order.buffer, 0, bytemuck::cast_slice(&order));
        for first in (0..training).step_by(BATCH) {
            let mut encoder = network.begin(gpu, first..training.min(first + BATCH));
            record(&mut encoder, network.forward.iter().chain(&network.backward));
            optimizer.step(&mut encoder)?;
            gpu.queue().submit([encoder.finish()]);
        }
        for first in (training..IMAGES).step_by(BATCH) {
            let mut encoder = network.begin(gpu, first..IMAGES.min(first + BATCH));
            record(&mut encoder, &network.forward);
            gpu.queue().submit([encoder.finish()]);
        }
        // Of each image in the order of this epoch: its loss, and 1 if it is recognised, else 0.
        let outcomes = read(gpu, &network.outcomes)?;
        let (trained, held_back) = outcomes.split_at(2 * training);
        let loss = trained.iter().step_by(2).sum::<f32>() / training as f32;
        let recognised = held_back.iter().skip(1).step_by(2).filter(|hit| **hit != 0.0).count();
        history.push(Epoch { loss, recognised });
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

/// The network's kernels, which bind the arena's slices, and the images.
struct Network {
    /// The mini-batch: its first image's place in the order, and how many there are.
    batch: Slice,
    order: Slice,
    outcomes: Slice,
    forward: Vec<Kernel>,
    /// Writes the arena's gradients.
    backward: Vec<Kernel>,
}

impl Network {
    fn new(gpu: &Gpu, arena: &Arena) -> Result<Self> {
        let zeros = |count: usize| buffer(gpu, "values", &vec![0f32; count], BufferUsages::STORAGE);
        let digits = DIGITS.chunks_exact(ROW);
        let pixels: Vec<_> = digits.clone().flat_map(|row| &row[..ROW - 1]).map(|p| f32::from(*p) / 16.0).collect();
        let labels: Vec<_> = digits.map(|row| u32::from(row[ROW - 1])).collect();
        let pixels = buffer(gpu, "pixels", &pixels, BufferUsages::STORAGE);
        let labels = buffer(gpu, "labels", &labels, BufferUsages::STORAGE);
        let batch = buffer(gpu, "batch", &[0u32; 2], BufferUsages::UNIFORM);
        let (order, outcomes) = (zeros(IMAGES), zeros(2 * IMAGES));
        // The inputs of each layer, last the logits; and the loss's slopes by them.
        let (x, delta) = (WIDTHS.map(|width| zeros(BATCH * width)), WIDTHS.map(|width| zeros(BATCH * width)));

        let kernel = |name, text: &str, constants: &[_], bindings: &[&Slice], invocations: usize| {
            let source = [include_str!("../cli/shaders/batch.wgsl"), text].concat();
            let source = wgpu::ShaderSource::Wgsl(source.into());
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
            let bindings: Vec<_> = (0..).zip(bindings.iter().copied()).collect();
            let workgroups = [invocations.div_ceil(64) as u32, 1];
            let module = gpu.device().create_shader_module(descriptor);
            Kernel::new(gpu, &module, name, constants, &[&[(0, &batch)], &bindings], workgroups)
        };
        macro_rules! kernel {
            ($name:literal, $($argument:expr),*) => {
                kernel($name, include_str!(concat!("../cli/shaders/", $name, ".wgsl")), $($argument),*)
            };
        }
        let inputs = [("INPUTS", WIDTHS[0] as f64)];
        let mut forward = vec![kernel!("gather", &inputs, &[&pixels, &order, &x[0]], BATCH * WIDTHS[0])];
        let mut backward = Vec::new();
        for l in 1..WIDTHS.len() {
            let (inputs, outputs) = (WIDTHS[l - 1], WIDTHS[l]);
            let sizes = [("INPUTS", inputs as f64), ("OUTPUTS", outputs as f64)];
            let relu = [sizes[0], sizes[1], ("RELU", f64::from(u8::from(l + 1 < WIDTHS.len())))];
            let (weight, bias) = (&format!("layer{l}.weight"), &format!("layer{l}.bias"));
            let (w, b) = (arena.params(weight)?, arena.params(bias)?);
            forward.push(kernel!("forward", &relu, &[&x[l - 1], w, b, &x[l]], BATCH * outputs));
            if l > 1 {
                let bindings = [&x[l - 1], w, &delta[l], &delta[l - 1]];
                backward.push(kernel!("backward_input", &sizes, &bindings, BATCH * inputs));
            }
            let bindings = [&x[l - 1], &delta[l], arena.gradient(weight)?, arena.gradient(bias)?];
            backward.push(kernel!("backward_weights", &sizes, &bindings, outputs * (inputs + 1)));
        }
        // From the last layer to the first.
        backward.reverse();
        let last = WIDTHS.len() - 1;
        let outputs = [("OUTPUTS", WIDTHS[last] as f64)];
        forward.push(kernel!("loss", &outputs, &[&x[last], &labels, &order, &delta[last], &outcomes], BATCH));
        Ok(Self { batch, order, outcomes, forward, backward })
    }

    /// The encoder of a mini-batch.
    fn begin(&self, gpu: &Gpu, images: std::ops::Range<usize>) -> wgpu::CommandEncoder {
        let batch = [images.start as u32, images.len() as u32];
        gpu.queue().write_buffer(&self.batch.buffer, 0, bytemuck::cast_slice(&batch));
        gpu.device().create_command_encoder(&Default::default())
    }
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> Result<()> {
    for (number, Epoch { loss, recognised }) in (1..).zip(run(&Gpu::headless()?, 30)?) {
        println!("epoch {number:2}: loss {loss:.4}, {recognised} of {HELD_BACK} held-back images recognised");
    }
    Ok(())
}
