//! Fits a picture with 2-D Gaussians, forward and backward in WGSL, which is what many people train on
//! wgpu today. Positions, shapes and colours have learning rates of their own. On the way faint
//! Gaussians are pruned and new ones put where the error is; the rows that stay keep their state, which
//! never leaves the GPU.
//!
//! `cargo run --release --example gaussian_fit -- fit.png`

mod model;
mod picture;

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgpu_optim::Gpu;

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
    add(&mut params, goal, &goal.rgb, settings.few, 0, &mut random)?;
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
            let params = model.params()?;
            let kept = visible(&params);
            done.pruned = done.gaussians - kept.len();
            done.added = (kept.len() / 2).min(settings.many - kept.len());
            let error: Vec<f32> = residual.iter().map(|r| -r).collect();
            let mut new = Params::default();
            add(&mut new, goal, &error, done.added, kept.len(), &mut random)?;
            model.resize(goal, &kept, &new)?;
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
/// There are `others` besides.
pub fn add(
    params: &mut Params,
    goal: &Picture,
    missing: &[f32],
    count: usize,
    others: usize,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let weights = missing.chunks_exact(3).map(|rgb| rgb.iter().map(|c| c * c).sum::<f32>() + 1e-6);
    let pixels = WeightedIndex::new(weights)?;
    // As wide as half their mean distance.
    let scale = ((goal.width * goal.height) as f32 / (others + count) as f32).sqrt() / 2.0;
    for _ in 0..count {
        let pixel = pixels.sample(random);
        params[0].extend([(pixel % goal.width) as f32 + 0.5, (pixel / goal.width) as f32 + 0.5]);
        params[1].extend([scale.ln(), scale.ln(), random.random_range(0.0..std::f32::consts::PI)]);
        params[2].extend(missing[3 * pixel..3 * pixel + 3].iter().map(|c| 0.5 * c));
    }
    Ok(())
}

/// The Gaussians that show: neither without colour nor smaller than a pixel.
fn visible(params: &Params) -> Vec<u32> {
    let coloured = |i: usize| params[2][3 * i..3 * i + 3].iter().any(|c| c.abs() > 0.01);
    let wide = |i: usize| params[1][3 * i].max(params[1][3 * i + 1]) > 0.3f32.ln();
    (0..params[0].len() as u32 / 2).filter(|i| coloured(*i as usize) && wide(*i as usize)).collect()
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
