//! The race on the handwritten digits: the network of `train`, on the GPU.

use wgpu_optim::{Gpu, OptimizerConfig, Rule};

use crate::digits::Digits;
use crate::error::{Error, Result};
use crate::network::trainer::{GpuTrainer, Trainer};
use crate::network::{self, Epoch, Score};

/// Images in a mini-batch, as `train` has them.
const BATCH: usize = 32;

/// A training with one rate.
#[derive(Debug, Clone)]
pub struct Lap {
    pub lr: f64,
    pub history: Vec<Epoch>,
}

impl Lap {
    /// The mean training loss of the last epoch.
    pub fn loss(&self) -> f64 {
        self.history.last().map_or(f64::NAN, |epoch| epoch.training.loss)
    }

    /// What it recognises at the end.
    pub fn held_back(&self) -> Option<Score> {
        self.history.last().map(|epoch| epoch.held_back)
    }
}

/// Trains for so many epochs: the same start and the same order of images, whatever the rule.
pub fn lap(gpu: &Gpu, digits: &Digits, rule: &dyn Rule, lr: f64, epochs: usize) -> Result<Lap> {
    const SEED: u64 = 0;
    let mut rule = rule.boxed();
    rule.set_option("lr", &lr.into()).map_err(|e| Error::input(format!("lr: {e}")))?;
    let config = OptimizerConfig::from_boxed(rule);
    let mut trainer = GpuTrainer::new(gpu, &config, digits, &network::initial_params(SEED), BATCH)?;
    let mut history = Vec::new();
    for order in digits.orders(SEED).take(epochs) {
        history.extend(trainer.epoch(&order)?);
    }
    history.extend(trainer.finish()?);
    Ok(Lap { lr, history })
}

/// The better of two laps: the lower loss, and any loss rather than none.
pub fn better(best: Option<Lap>, lap: Lap) -> Option<Lap> {
    let loss = |lap: &Lap| if lap.loss().is_finite() { lap.loss() } else { f64::INFINITY };
    match best {
        Some(best) if loss(&best) <= loss(&lap) => Some(best),
        _ => Some(lap),
    }
}
