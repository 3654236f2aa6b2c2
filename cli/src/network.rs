//! A small network for the digits: linear layers with ReLU between them, softmax and cross-entropy at
//! the end. [`gpu`] has it in kernels, [`cpu`] in arrays, and [`trainer`] trains either.

mod casts;
pub mod cpu;
pub mod gpu;
mod kernels;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod trainer;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::TensorSpec;

use crate::digits::{CLASSES, PIXELS};

/// Values between the layers, from the pixels to the digits.
const WIDTHS: [usize; 4] = [PIXELS, 64, 32, CLASSES];

/// A linear layer's shape. Its weights have a row for each output, as PyTorch's.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// From 1.
    number: usize,
    inputs: usize,
    outputs: usize,
}

impl Layer {
    fn weight(&self) -> String {
        format!("layer{}.weight", self.number)
    }

    fn bias(&self) -> String {
        format!("layer{}.bias", self.number)
    }

    /// Whether a ReLU follows: after all but the last.
    fn relu(&self) -> bool {
        self.number + 1 < WIDTHS.len()
    }
}

fn layers() -> impl DoubleEndedIterator<Item = Layer> + ExactSizeIterator {
    (0..WIDTHS.len() - 1).map(|l| Layer { number: l + 1, inputs: WIDTHS[l], outputs: WIDTHS[l + 1] })
}

/// The parameters: each layer's weight and bias.
pub fn specs() -> Vec<TensorSpec> {
    layers()
        .flat_map(|layer| {
            let (inputs, outputs) = (layer.inputs as u64, layer.outputs as u64);
            [TensorSpec::new(layer.weight(), [outputs, inputs]), TensorSpec::new(layer.bias(), [outputs])]
        })
        .collect()
}

/// Parameters to start from, in the order of [`specs`]: weights uniform within ±√(6/inputs) (He et
/// al. 2015), biases zero.
pub fn initial_params(seed: u64) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    layers()
        .flat_map(|layer| {
            let bound = (6.0 / layer.inputs as f32).sqrt();
            let weights = (0..layer.inputs * layer.outputs).map(|_| random.random_range(-bound..bound)).collect();
            [weights, vec![0.0; layer.outputs]]
        })
        .collect()
}

/// The mini-batches of that many images. The last is as long as what is left: no image is dropped,
/// and its gradients are the mean over the images it has.
fn batches(images: usize, batch: usize) -> Vec<std::ops::Range<usize>> {
    (0..images).step_by(batch).map(|first| first..images.min(first + batch)).collect()
}

/// Steps of an epoch.
pub fn steps(images: usize, batch: usize) -> usize {
    batches(images, batch).len()
}

/// What the network makes of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    loss: f64,
    correct: bool,
}

/// What the network makes of many images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The mean cross-entropy in nats.
    pub loss: f64,
    pub correct: usize,
    pub images: usize,
}

/// An epoch's scores: on the training images while it trained, on those held back after it.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    pub training: Score,
    pub held_back: Score,
}

impl Score {
    fn of(outcomes: &[Outcome]) -> Self {
        let images = outcomes.len();
        Self {
            loss: outcomes.iter().map(|o| o.loss).sum::<f64>() / images as f64,
            correct: outcomes.iter().filter(|o| o.correct).count(),
            images,
        }
    }

    /// The share of images recognised.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images as f64
    }
}
