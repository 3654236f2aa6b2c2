//! Fits a picture with 2-D Gaussians, forward and backward in WGSL, which is what many people train on
//! wgpu today. Positions, shapes and colours have learning rates of their own. On the way faint
//! Gaussians are pruned and new ones put where the error is; the rows that stay keep their state, which
//! never leaves the GPU.
//!
//! `cargo run --release --example gaussian_fit -- fit.png`

#[path = "../support/kernel.rs"]
pub mod kernel;
#[path = "../support/picture.rs"]
mod picture;

use kernel::{Kernel, buffer, read, record};
pub use picture::{Picture, Result};
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::rules::Adam;
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{Arena, Gpu, Group, Optimizer, OptimizerConfig, Slice, TensorSpec};

/// Each part of a Gaussian and how many values it has. A part is a tensor, a Gaussian a row.
pub const PARTS: [(&str, usize); 3] = [("position", 2), ("shape", 3), ("colour", 3)];

/// The values of all Gaussians, in the order of [`PARTS`].
pub type Params = [Vec<f32>; 3];

/// How long to fit, from how many Gaussians to how many at most.
pub struct Settings {
    pub rounds: usize,
    pub steps: usize,
    pub few: usize,
    pub many: usize,
}

/// What a round came to.
#[derive(Debug)]
pub struct Round {
    pub gaussians: usize,
    pub pruned: usize,
    pub added: usize,
    /// Peak signal-to-noise ratio in decibels.
    pub psnr: f64,
}

/// The fitted picture, and how it came about.
pub fn fit(gpu: &Gpu, goal: &Picture, settings: Settings) -> Result<(Picture, Vec<Round>)> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let start = scatter(goal, &goal.rgb, settings.few, 0, &mut random)?;
    let mut model = Model::new(gpu, goal, &start)?;
    let mut history = Vec::new();
    for round in 1..=settings.rounds {
        for _ in 0..settings.steps {
            model.step()?;
        }
        let residual = model.residual()?;
        let params = model.optimizer.params_blocking()?;
        let gaussians = params[0].len() / 2;
        let mut done = Round { gaussians, pruned: 0, added: 0, psnr: picture::psnr(&residual) };
        if round < settings.rounds {
            // Those that show: neither without colour nor smaller than a pixel.
            let coloured = |i: usize| params[2][3 * i..3 * i + 3].iter().any(|c| c.abs() > 0.01);
            let wide = |i: usize| params[1][3 * i].max(params[1][3 * i + 1]) > 0.3f32.ln();
            let kept: Vec<_> = (0..gaussians).filter(|i| coloured(*i) && wide(*i)).map(|i| i as u32).collect();
            done.pruned = gaussians - kept.len();
            done.added = (kept.len() / 2).min(settings.many - kept.len());
            let missing: Vec<f32> = residual.iter().map(|r| -r).collect();
            let new = scatter(goal, &missing, done.added, kept.len(), &mut random)?;
            model.resize(goal, &kept, &new)?;
        }
        history.push(done);
    }
    let rgb = goal.rgb.iter().zip(model.residual()?).map(|(goal, residual)| goal + residual).collect();
    Ok((Picture { rgb, ..*goal }, history))
}

/// Gaussians at random pixels, more where `missing` is large, in the colour that is missing there. There
/// are `others` besides.
pub fn scatter(
    goal: &Picture,
    missing: &[f32],
    count: usize,
    others: usize,
    random: &mut ChaCha8Rng,
) -> Result<Params> {
    let weights = missing.chunks_exact(3).map(|rgb| rgb.iter().map(|c| c * c).sum::<f32>() + 1e-6);
    let pixels = WeightedIndex::new(weights)?;
    // As wide as half their mean distance.
    let scale = ((goal.width * goal.height) as f32 / (others + count) as f32).sqrt() / 2.0;
    let mut params = Params::default();
    for _ in 0..count {
        let pixel = pixels.sample(random);
        params[0].extend([(pixel % goal.width) as f32 + 0.5, (pixel / goal.width) as f32 + 0.5]);
        params[1].extend([scale.ln(), scale.ln(), random.random_range(0.0..std::f32::consts::PI)]);
        params[2].extend(missing[3 * pixel..3 * pixel + 3].iter().map(|c| 0.5 * c));
    }
    Ok(params)
}

/// The Gaussians on the GPU.
pub struct Model {
    gpu: Gpu,
    pub arena: Arena,
    optimizer: Optimizer,
    /// Forward and backward, bound to the arena of the moment, and where they leave the residual.
    kernels: [Kernel; 3],
    residual: Slice,
}

impl Model {
    pub fn new(gpu: &Gpu, goal: &Picture, params: &Params) -> Result<Self> {
        let arena = arena(gpu, params[0].len() / 2)?;
        for ((name, _), values) in PARTS.iter().zip(params) {
            arena.write_params(name, values)?;
        }
        // Positions are in pixels, so their rate is larger.
        let config = OptimizerConfig::new(Adam { lr: 0.01, ..Adam::default() })
            .group(Group::matching("position").set("lr", 0.2))
            .group(Group::matching("shape").set("lr", 0.04));
        let optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;
        let (kernels, residual) = kernels(gpu, goal, &arena);
        Ok(Self { gpu: gpu.clone(), arena, optimizer, kernels, residual })
    }

    /// Goes on with those Gaussians, their state included, and new ones after them.
    fn resize(&mut self, goal: &Picture, kept: &[u32], new: &Params) -> Result<()> {
        let added = new[0].len() / 2;
        let arena = arena(&self.gpu, kept.len() + added)?;
        let rows: Vec<_> = kept.iter().map(|row| Some(*row)).chain(std::iter::repeat_n(None, added)).collect();
        for ((tensor, values), (_, width)) in arena.tensors().iter().zip(new).zip(PARTS) {
            self.optimizer.set_rows(tensor.clone(), &rows)?;
            let bytes = 4 * (kept.len() * width) as u64;
            let tail = Slice::new(&tensor.params.buffer, tensor.params.offset + bytes, tensor.params.size - bytes);
            self.gpu.write(&tail, values)?;
        }
        (self.kernels, self.residual) = kernels(&self.gpu, goal, &arena);
        self.arena = arena;
        Ok(())
    }

    /// Forward, backward and update in one encoder.
    fn step(&mut self) -> Result<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        record(&mut encoder, &self.kernels);
        self.optimizer.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// Three values a pixel, less what they should be. Leaves the gradients in the arena.
    pub fn residual(&self) -> Result<Vec<f32>> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        record(&mut encoder, &self.kernels);
        self.gpu.queue().submit([encoder.finish()]);
        read(&self.gpu, &self.residual)
    }
}

fn arena(gpu: &Gpu, count: usize) -> Result<Arena> {
    Ok(Arena::new(gpu, PARTS.map(|(name, width)| TensorSpec::new(name, [count as u64, width as u64])))?)
}

fn kernels(gpu: &Gpu, goal: &Picture, arena: &Arena) -> ([Kernel; 3], Slice) {
    let count = arena.tensors()[0].spec.shape[0] as usize;
    let (across, down) = (goal.width as u32 / 8, goal.height as u32 / 8);
    let storage = |label, values: &[f32]| buffer(gpu, label, values, BufferUsages::STORAGE);
    let target = storage("goal", &goal.rgb);
    let residual = storage("residual", &vec![0.0; goal.rgb.len()]);
    let bins = storage("bins", &vec![0.0; (across * down) as usize * (count + 1)]);
    let picture = [(0, &target), (1, &residual), (2, &bins)];
    let params: Vec<_> = (0..).zip(arena.tensors().iter().map(|t| &t.params)).collect();
    let gradients: Vec<_> = (0..).zip(arena.tensors().iter().filter_map(|t| t.gradient.as_ref())).collect();

    let module = gpu.device().create_shader_module(wgpu::include_wgsl!("gaussian.wgsl"));
    let sizes = [("WIDTH", goal.width as f64), ("HEIGHT", goal.height as f64), ("COUNT", count as f64)];
    let kernel = |name, groups: &[&[_]], size| Kernel::new(gpu, &module, name, &sizes, groups, size);
    let kernels = [
        kernel("bin", &[&params[..2], &picture[2..]], [(across * down).div_ceil(64), 1]),
        kernel("render", &[&params, &picture], [across, down]),
        kernel("backward", &[&params, &picture[1..2], &gradients], [count as u32, 1]),
    ];
    (kernels, residual)
}

#[allow(dead_code, reason = "a test runs `fit` by itself")]
fn main() -> Result<()> {
    let goal = Picture::sunset(192, 128);
    let settings = Settings { rounds: 6, steps: 50, few: 500, many: 3000 };
    let (fitted, history) = fit(&Gpu::headless()?, &goal, settings)?;
    for (round, Round { gaussians, pruned, added, psnr }) in (1..).zip(history) {
        println!("round {round}: {gaussians:4} Gaussians, PSNR {psnr:.2} dB; then {pruned} pruned, {added} added");
    }
    let path = std::env::args().nth(1).unwrap_or_else(|| "fit.png".to_owned());
    std::fs::write(&path, goal.beside(&fitted).png()?)?;
    println!("{path}: the picture on the left, its Gaussians on the right");
    Ok(())
}
