//! Fits a picture with 2-D Gaussians, forward and backward in WGSL, which is what many people train on
//! wgpu today. Positions, shapes and colours have learning rates of their own. On the way faint
//! Gaussians are pruned and new ones put where the error is; those that stay keep their state.
//!
//! `cargo run --release --example gaussian_fit -- fit.png`

mod model;
mod picture;

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::{Gpu, OptimizerState};

pub use model::{Model, PARTS, Params};
pub use picture::Picture;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long to fit, and with how many Gaussians.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub rounds: usize,
    pub steps: usize,
    /// Gaussians at the start.
    pub few: usize,
    /// Gaussians at most.
    pub many: usize,
}

/// What a round came to.
#[derive(Debug, Clone, Copy)]
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
    let mut params = Params::default();
    add(&mut params, goal, &goal.rgb, settings.few, &mut random)?;
    let mut model = Model::new(gpu, goal, &params)?;
    let mut history = Vec::new();
    for round in 1..=settings.rounds {
        for _ in 0..settings.steps {
            model.step()?;
        }
        // The pixels less what they should be.
        let residual = model.residual()?;
        let mut done = Round { gaussians: model.gaussians(), pruned: 0, added: 0, psnr: psnr(&residual) };
        if round < settings.rounds {
            let (mut params, mut state) = model.save()?;
            let kept = visible(&params);
            keep(&mut params, &mut state, &kept);
            done.pruned = done.gaussians - kept.len();
            done.added = (kept.len() / 2).min(settings.many - kept.len());
            let error: Vec<f32> = residual.iter().map(|r| -r).collect();
            add(&mut params, goal, &error, done.added, &mut random)?;
            extend(&mut state, params[0].len() / 2);
            model = Model::new(gpu, goal, &params)?;
            model.load_state(&state)?;
        }
        history.push(done);
    }
    let rgb = goal.rgb.iter().zip(model.residual()?).map(|(goal, residual)| goal + residual).collect();
    Ok((Picture { rgb, ..*goal }, history))
}

fn psnr(residual: &[f32]) -> f64 {
    let squares: f64 = residual.iter().map(|r| f64::from(r * r)).sum();
    -10.0 * (squares / residual.len() as f64).log10()
}

/// Adds Gaussians at random pixels, more where `missing` is large, in the colour that is missing there.
pub fn add(params: &mut Params, goal: &Picture, missing: &[f32], count: usize, random: &mut ChaCha8Rng) -> Result<()> {
    let weights = missing.chunks_exact(3).map(|rgb| rgb.iter().map(|c| c * c).sum::<f32>() + 1e-6);
    let pixels = WeightedIndex::new(weights)?;
    // As wide as their mean distance.
    let scale = ((goal.width * goal.height) as f32 / (params[0].len() / 2 + count) as f32).sqrt() / 2.0;
    for _ in 0..count {
        let pixel = pixels.sample(random);
        params[0].extend([(pixel % goal.width) as f32 + 0.5, (pixel / goal.width) as f32 + 0.5]);
        params[1].extend([scale.ln(), scale.ln(), random.random_range(0.0..std::f32::consts::PI)]);
        params[2].extend(missing[3 * pixel..3 * pixel + 3].iter().map(|c| 0.5 * c));
    }
    Ok(())
}

/// The Gaussians that show: neither without colour nor smaller than a pixel.
fn visible(params: &Params) -> Vec<usize> {
    let coloured = |i: usize| params[2][3 * i..3 * i + 3].iter().any(|c| c.abs() > 0.01);
    let wide = |i: usize| params[1][3 * i].max(params[1][3 * i + 1]) > 0.3f32.ln();
    (0..params[0].len() / 2).filter(|i| coloured(*i) && wide(*i)).collect()
}

/// Drops all rows but those, from parameters and state alike.
fn keep(params: &mut Params, state: &mut OptimizerState, rows: &[usize]) {
    let keep = |values: &mut Vec<f32>, width: usize| {
        *values = rows.iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect();
    };
    for (part, tensor) in state.tensors.iter_mut().enumerate() {
        let width = PARTS[part].1;
        keep(&mut params[part], width);
        tensor.slots.iter_mut().for_each(|(_, values)| keep(values, width));
    }
}

/// Gives the state rows of zeros for the Gaussians that are new.
fn extend(state: &mut OptimizerState, count: usize) {
    for (tensor, (_, width)) in state.tensors.iter_mut().zip(PARTS) {
        tensor.shape[0] = count as u64;
        tensor.slots.iter_mut().for_each(|(_, values)| values.resize(count * width, 0.0));
    }
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
