//! The same network trained twice on the same numbers: by Burn's own AdamW and by this engine with the
//! same options, both on Burn's wgpu device.
//!
//! `cargo run --release --example side_by_side`

pub mod spirals;

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Device;
use spirals::{Network, Spirals};
use wgpu_optim::Gpu;
use wgpu_optim_burn::{Error, Optimizer, adamw};

const LR: f64 = 0.01;

/// The losses of Burn's AdamW and of this engine, step by step.
pub fn run(device: &Device, gpu: &Gpu, steps: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let device = device.clone().autodiff();
    let data = Spirals::new(300, &device);
    let start = Network::new(&device);
    let options =
        AdamWConfig::new().with_weight_decay(0.01).with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)));

    // As a program with Burn alone has it.
    let mut model = start.clone();
    let mut optimizer = options.init();
    let mut burns = Vec::new();
    for _ in 0..steps {
        let loss = data.loss(&model);
        burns.push(loss.clone().inner());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(LR, model, gradients);
    }

    let mut model = start;
    let mut optimizer = Optimizer::new(gpu, adamw(&options)?);
    let mut ours = Vec::new();
    for _ in 0..steps {
        let loss = data.loss(&model);
        ours.push(loss.clone().inner());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(LR, model, gradients)?;
    }
    println!("the engine was bound to Burn's buffers {} time(s)", optimizer.moves());

    let host = |losses: Vec<burn::Tensor<1>>| losses.into_iter().map(|loss| loss.into_scalar::<f32>()).collect();
    Ok((host(burns), host(ours)))
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> Result<(), Error> {
    let (device, gpu) = wgpu_optim_burn::open()?;
    let (burns, ours) = run(&device, &gpu, 201)?;
    println!("{:>4}  {:>10}  {:>10}", "step", "Burn", "wgpu-optim");
    for (step, (burn, our)) in burns.iter().zip(&ours).enumerate().step_by(20) {
        println!("{step:4}  {burn:10.6}  {our:10.6}");
    }
    Ok(())
}
