//! AdamW of Burn and of this engine, in turns on the same adapter, over several shapes of model.
//!
//! `cargo run --release [rounds]` in this folder. A time is from the call to the end of the wait for the
//! device; what is compared is the median of the ratios of turns that follow one another.

use std::error::Error;
use std::time::Instant;

use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use wgpu_optim::rules::AdamW;
use wgpu_optim::{Arena, Gpu, OnNonfinite, Optimizer, OptimizerConfig, TensorSpec};

const LR: f64 = 1e-3;
const MIB: usize = 1 << 20;

/// Elements in all, and tensors that share them.
const CASES: [(usize, usize); 4] = [(16 * MIB, 1), (16 * MIB, 100), (16 * MIB, 1000), (MIB, 1000)];

/// What the engine is compared in: Burn's work, and the engine's default, which also tests every
/// gradient and skips the step where one is not finite.
const CONFIGS: [(&str, OnNonfinite); 2] = [("propagate", OnNonfinite::Propagate), ("default", OnNonfinite::Skip)];

#[derive(Module, Debug)]
struct Model {
    tensors: Vec<Param<Tensor<1>>>,
}

/// Burn's side of a case.
struct Burn {
    device: Device,
    model: Option<Model>,
    gradients: Vec<Tensor<1>>,
    optimizer: ModuleOptimizer,
}

impl Burn {
    fn new(device: &Device, sizes: &[usize]) -> Self {
        let random = |n: &usize| Tensor::<1>::random([*n], Distribution::Uniform(-1.0, 1.0), device);
        let inner = device.clone();
        let trained = device.clone().autodiff();
        let param = |n: &usize| Param::from_tensor(Tensor::random([*n], Distribution::Uniform(-1.0, 1.0), &trained));
        Self {
            model: Some(Model { tensors: sizes.iter().map(param).collect() }),
            gradients: sizes.iter().map(random).collect(),
            optimizer: AdamWConfig::new().with_weight_decay(0.01).init(),
            device: inner,
        }
    }

    fn step(&mut self) -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        let model = self.model.take().ok_or("an earlier step failed")?;
        let mut gradients = GradientsParams::new();
        for (param, gradient) in model.tensors.iter().zip(&self.gradients) {
            gradients.register(param.id, gradient.clone());
        }
        self.model = Some(self.optimizer.step(LR, model, gradients));
        self.device.sync().map_err(|e| format!("{e:?}"))?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// The engine's side of a case.
struct Ours {
    gpu: Gpu,
    optimizer: Optimizer,
    _arena: Arena,
}

impl Ours {
    fn new(gpu: &Gpu, sizes: &[usize], on_nonfinite: OnNonfinite) -> wgpu_optim::Result<Self> {
        let specs: Vec<_> = (0..).zip(sizes).map(|(i, n)| TensorSpec::new(format!("t{i}"), [*n as u64])).collect();
        let arena = Arena::new(gpu, specs.iter().cloned())?;
        for (spec, n) in specs.iter().zip(sizes) {
            let values: Vec<_> = (0..*n).map(|i| (i as f32 * 0.7).sin()).collect();
            arena.write_params(&spec.name, &values)?;
            arena.write_gradient(&spec.name, &values)?;
        }
        let mut config = OptimizerConfig::new(AdamW { lr: LR, ..AdamW::default() });
        config.gradient.on_nonfinite = on_nonfinite;
        let optimizer = Optimizer::new(gpu, &config, arena.tensors().iter().cloned())?;
        Ok(Self { gpu: gpu.clone(), optimizer, _arena: arena })
    }

    fn step(&mut self) -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.optimizer.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        self.gpu.device().poll(wgpu_optim::wgpu::PollType::wait_indefinitely())?;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|q| values[(values.len() - 1) * q / 4])
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(15), |text| text.parse())?;
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let gpu = Gpu::headless()?;
    println!("{}; {rounds} turns each, the median with quartiles\n", gpu.device().adapter_info().name);
    println!("| parameters | tensors | config | Burn, ms | wgpu-optim, ms | Burn's time over ours |");
    println!("|---|---|---|---|---|---|");
    for (elements, tensors) in CASES {
        let sizes: Vec<_> = (0..tensors).map(|i| elements * (i + 1) / tensors - elements * i / tensors).collect();
        let mut burn = Burn::new(&device, &sizes);
        for (name, on_nonfinite) in CONFIGS {
            let mut ours = Ours::new(&gpu, &sizes, on_nonfinite)?;
            // Kernels are compiled, and Burn's are tuned, before anything counts.
            for _ in 0..3 {
                burn.step()?;
                ours.step()?;
            }
            let turns: Vec<_> =
                (0..rounds).map(|_| Ok((burn.step()?, ours.step()?))).collect::<Result<_, Box<dyn Error>>>()?;
            let [_, burns, _] = quartiles(turns.iter().map(|(burn, _)| burn * 1e3).collect());
            let [_, our, _] = quartiles(turns.iter().map(|(_, our)| our * 1e3).collect());
            let [low, ratio, high] = quartiles(turns.iter().map(|(burn, our)| burn / our).collect());
            println!("| {elements} | {tensors} | {name} | {burns:.1} | {our:.1} | {ratio:.2} ({low:.2} to {high:.2}) |");
        }
    }
    Ok(())
}
