//! Two spirals, and a network that tells them apart.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig, loss::BinaryCrossEntropyLossConfig};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};

/// Points of two arms, and which arm each belongs to.
pub struct Spirals {
    points: Tensor<2>,
    arms: Tensor<1, Int>,
}

impl Spirals {
    /// So many points in each arm.
    pub fn new(points: usize, device: &Device) -> Self {
        let point = |i: usize| {
            let (arm, t) = (i % 2, 0.2 + 0.8 * (i / 2) as f32 / points as f32);
            let angle = 7.0 * t + std::f32::consts::PI * arm as f32;
            [t * angle.cos(), t * angle.sin()]
        };
        let values: Vec<f32> = (0..2 * points).flat_map(point).collect();
        let arms: Vec<i32> = (0..2 * points).map(|i| (i % 2) as i32).collect();
        Self {
            points: Tensor::from_data(TensorData::new(values, [2 * points, 2]), device),
            arms: Tensor::from_data(TensorData::new(arms, [2 * points]), device),
        }
    }

    /// The mean cross-entropy.
    pub fn loss(&self, network: &Network) -> Tensor<1> {
        let logits = network.forward(self.points.clone()).squeeze_dim::<1>(1);
        let loss = BinaryCrossEntropyLossConfig::new().with_logits(true).init(&self.points.device());
        loss.forward(logits, self.arms.clone())
    }
}

/// Three linear layers with the hyperbolic tangent between them.
#[derive(Module, Debug)]
pub struct Network {
    first: Linear,
    second: Linear,
    last: Linear,
}

impl Network {
    pub fn new(device: &Device) -> Self {
        Self {
            first: LinearConfig::new(2, 32).init(device),
            second: LinearConfig::new(32, 32).init(device),
            last: LinearConfig::new(32, 1).init(device),
        }
    }

    fn forward(&self, points: Tensor<2>) -> Tensor<2> {
        let x = activation::tanh(self.first.forward(points));
        let x = activation::tanh(self.second.forward(x));
        self.last.forward(x)
    }
}
