//! Tells why a deep network does not learn: ten sigmoid layers pass hardly any gradient down, and the
//! health report says where it vanishes. With ReLU and weights drawn for it the same depth is healthy,
//! and with weights five times as large it explodes.
//!
//! `cargo run --release --example gradient_health`

use ndarray::{Array1, Array2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::rules::Sgd;
use wgpu_optim::{Arena, Gpu, Health, HealthConfig, Optimizer, OptimizerConfig, TensorSpec};

const WIDTH: usize = 32;
const LAYERS: usize = 10;

/// A network to look at: what its units do, and how large its weights are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    pub name: &'static str,
    pub relu: bool,
    /// The weights are uniform within ± this.
    pub bound: f32,
}

/// √(6/inputs) keeps the size of what passes through ReLUs (He et al. 2015).
pub fn networks() -> [Network; 3] {
    let he = (6.0 / WIDTH as f32).sqrt();
    [
        Network { name: "sigmoid", relu: false, bound: 1.0 / (WIDTH as f32).sqrt() },
        Network { name: "ReLU", relu: true, bound: he },
        Network { name: "ReLU, weights five times as large", relu: true, bound: 5.0 * he },
    ]
}

impl Network {
    fn unit(self, x: f32) -> f32 {
        if self.relu { x.max(0.0) } else { 1.0 / (1.0 + (-x).exp()) }
    }

    /// The unit's slope where it gave `y`.
    fn slope(self, y: f32) -> f32 {
        if self.relu { f32::from(y > 0.0) } else { y * (1.0 - y) }
    }

    /// Gradients of half the squared distance from a target, by backpropagation. On the host, to be
    /// short: the report does not care who wrote the gradients.
    fn gradients(self, weights: &[Array2<f32>], input: Array1<f32>, target: &Array1<f32>) -> Vec<Array2<f32>> {
        let mut values = vec![input];
        for w in weights {
            values.push(w.dot(&values[values.len() - 1]).mapv(|x| self.unit(x)));
        }
        let mut delta = &values[LAYERS] - target;
        let mut gradients = Vec::new();
        for (layer, w) in weights.iter().enumerate().rev() {
            delta *= &values[layer + 1].mapv(|y| self.slope(y));
            let column = delta.view().insert_axis(ndarray::Axis(1));
            gradients.push(column.dot(&values[layer].view().insert_axis(ndarray::Axis(0))));
            delta = w.t().dot(&delta);
        }
        gradients.reverse();
        gradients
    }
}

/// What one step's passes saw of the network.
pub fn look(gpu: &Gpu, network: Network) -> Result<Health, Box<dyn std::error::Error>> {
    let names: Vec<_> = (1..=LAYERS).map(|layer| format!("layer{layer}.weight")).collect();
    let specs = names.iter().map(|name| TensorSpec::new(name, [WIDTH as u64; 2]));
    let arena = Arena::new(gpu, specs)?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut weights = Vec::new();
    for name in &names {
        let weight = || random.random_range(-network.bound..network.bound);
        let values = Array2::from_shape_simple_fn((WIDTH, WIDTH), weight);
        arena.write_params(name, values.as_slice().ok_or("not in row-major order")?)?;
        weights.push(values);
    }
    let mut vector = || Array1::from_shape_simple_fn(WIDTH, || random.random_range(0.0..1.0));
    let gradients = network.gradients(&weights, vector(), &vector());

    let config = OptimizerConfig::new(Sgd { lr: 0.01, ..Sgd::default() });
    let mut optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;
    // Every 100 steps by default; this takes only one.
    optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() }))?;
    for (name, gradient) in names.iter().zip(&gradients) {
        arena.write_gradient(name, gradient.as_standard_layout().as_slice().ok_or("not in row-major order")?)?;
    }
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    optimizer.step(&mut encoder)?;
    gpu.queue().submit([encoder.finish()]);
    // A training loop asks `health()` now and then; it never waits.
    optimizer.wait_for_report()?;
    Ok(optimizer.health()?.ok_or("no look has arrived")?.clone())
}

#[allow(dead_code, reason = "a test runs `look` by itself")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::headless()?;
    for network in networks() {
        println!("{}\n{:16} {:>10} {:>15}", network.name, "", "norm", "update/weights");
        for t in look(&gpu, network)?.tensors {
            let ratio = t.update_ratio.unwrap_or(f64::NAN);
            println!("{:16} {:10.2e} {ratio:15.2e}  {:?}", t.name, t.gradient_norm, t.verdict);
        }
    }
    Ok(())
}
