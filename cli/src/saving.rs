//! Checkpoints of a training run: written while it goes on, and gone on from.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use wgpu_optim::gpu::PendingCheckpoint;
use wgpu_optim::plan::Plan;
use wgpu_optim::schedule::Kind;
use wgpu_optim::{Checkpoint, Error as LibraryError, OptimizerConfig, Schedule};

use crate::error::{Error, Result};
use crate::network::{self, Epoch, Score};
use crate::resuming::{self, Allowed, Told};
use crate::{input, output};

/// What the command line decides of a run beside its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    pub seed: u64,
    pub batch: u32,
    /// In all, those of the run that it goes on from included.
    pub epochs: u32,
}

/// A checkpoint, or one on its way.
#[derive(Debug)]
pub enum Saving {
    Ready(Checkpoint),
    Pending(PendingCheckpoint),
}

impl Saving {
    pub fn wait(self) -> Result<Checkpoint, LibraryError> {
        match self {
            Self::Ready(checkpoint) => Ok(checkpoint),
            Self::Pending(pending) => pending.wait(),
        }
    }
}

/// Writes checkpoints on a thread of their own, one at a time and in order.
#[derive(Debug)]
pub struct Saver {
    path: PathBuf,
    course: Course,
    /// Of an epoch whose scores have not all arrived.
    waiting: Vec<(usize, Saving)>,
    writer: Option<JoinHandle<Result<(), LibraryError>>>,
}

impl Saver {
    pub fn new(path: &Path, course: Course) -> Self {
        Self { path: path.to_owned(), course, waiting: Vec::new(), writer: None }
    }

    /// Takes the checkpoint after that many epochs, to be written once their scores are there.
    pub fn add(&mut self, epochs: usize, saving: Saving) {
        self.waiting.push((epochs, saving));
    }

    /// Starts to write what can be written by now.
    pub fn go_on(&mut self, history: &[Epoch]) -> Result<()> {
        let ready = self.waiting.extract_if(.., |(epochs, _)| *epochs <= history.len());
        for (epochs, saving) in ready.collect::<Vec<_>>() {
            self.finish()?;
            let (path, course, history) = (self.path.clone(), self.course, to_json(&history[..epochs]));
            let write = move || {
                let checkpoint = saving.wait()?;
                checkpoint
                    .with_extra("seed", course.seed.to_string())
                    .with_extra("batch", course.batch.to_string())
                    .with_extra("total_epochs", course.epochs.to_string())
                    .with_extra("epochs", history.to_string())
                    .save(path)
            };
            self.writer = Some(std::thread::spawn(write));
        }
        Ok(())
    }

    /// Waits until what was started is written.
    pub fn finish(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let written = writer.join().map_err(|_| Error::failed("--checkpoint: the writing thread panicked"))?;
        written.map_err(|e| Error::failed(format!("--checkpoint: {e}")))
    }
}

/// A run that fails does not leave a checkpoint half written.
impl Drop for Saver {
    fn drop(&mut self) {
        // What went wrong is told by what failed first.
        let _ = self.finish();
    }
}

/// A run to go on with.
#[derive(Debug)]
pub struct Resumed {
    pub checkpoint: Checkpoint,
    pub history: Vec<Epoch>,
    /// What it was trained with, where the file says it; once agreed on, stored as is asked for.
    pub config: Option<OptimizerConfig>,
    seed: String,
    batch: String,
    epochs: Option<String>,
}

impl Resumed {
    /// Reads a file: for the configuration that it was written under, or for `config` where it does not say.
    pub fn read(path: &Path, config: &OptimizerConfig) -> Result<Self> {
        let bytes = input::bytes(path)?;
        let saved = resuming::saved_config(path, &bytes)?;
        let about = |e: LibraryError| Error::from(e).about(path);
        let plan = Plan::new(saved.as_ref().unwrap_or(config), &network::specs()).map_err(about)?;
        let checkpoint = Checkpoint::from_safetensors(&bytes, &plan).map_err(about)?;
        let extra = |key: &str| {
            let value = checkpoint.extra.get(key).cloned();
            value.ok_or_else(|| Error::file(path, format!("is not of a training run: it says nothing of {key:?}")))
        };
        let (seed, batch) = (extra("seed")?, extra("batch")?);
        if checkpoint.params.is_none() {
            return Err(Error::file(path, "holds no parameters"));
        }
        let history = from_json(&extra("epochs")?).ok_or_else(|| Error::file(path, "its scores cannot be read"))?;
        let epochs = checkpoint.extra.get("total_epochs").cloned();
        Ok(Self { checkpoint, history, config: saved, seed, batch, epochs })
    }

    /// The configuration to go on with, where `asked` is asked for: that one, but for a schedule whose length was
    /// `derived` from the command line. That one goes on as it was, and where it would be another, this is said.
    ///
    /// # Errors
    /// What differs and is not allowed to.
    pub fn agree(
        &mut self,
        path: &Path,
        course: Course,
        mut asked: OptimizerConfig,
        derived: bool,
        allowed: Allowed<'_>,
    ) -> Result<OptimizerConfig> {
        let mut told: Vec<Told> = Vec::new();
        for (key, was, now) in
            [("seed", &self.seed, course.seed.to_string()), ("batch", &self.batch, course.batch.to_string())]
        {
            if *was != now {
                told.push((key.to_owned(), format!("--{key} {was}, now --{key} {now}")));
            }
        }
        let Some(before) = &self.config else {
            resuming::check(path, told, allowed)?;
            output::notice(&format!("{}: does not say its configuration: is it the same?", path.display()));
            return Ok(asked);
        };
        let lengths = length(&before.schedule).zip(length(&asked.schedule)).filter(|(was, now)| was != now);
        let lengths = lengths.filter(|_| derived && !allowed.covers("schedule.total_steps"));
        if let Some((was, now)) = lengths {
            let epochs = course.epochs.to_string();
            if let Some(before) = self.epochs.as_ref().filter(|before| **before != epochs) {
                told.push((
                    "epochs".to_owned(),
                    format!(
                        "--epochs {before}, now --epochs {epochs}, on which the schedule depends (schedule.total_steps: \
                         {was}, now {now}; if it is allowed, the schedule stays as it was)"
                    ),
                ));
            }
            asked.schedule = before.schedule.clone();
        }
        told.extend(resuming::told(&before.differences(&asked)));
        resuming::check(path, told, allowed)?;
        let stored = resuming::stored_as(before, &asked);
        if stored.storage != before.storage {
            let about = |e: LibraryError| Error::from(e).about(path);
            let plan = Plan::new(&stored, &network::specs()).map_err(about)?;
            self.checkpoint = Checkpoint::convert_from_safetensors(&input::bytes(path)?, &plan).map_err(about)?;
            self.config = Some(stored);
        }
        if let Some((was, _)) = lengths {
            output::notice(&format!("{}: its schedule goes on as it was, and ends at step {was}", path.display()));
        }
        Ok(asked)
    }
}

/// Where the schedule of a run without a configuration ends.
fn length(schedule: &Schedule) -> Option<u64> {
    match &schedule.kind {
        Kind::Cosine(cosine) => Some(cosine.total_steps),
        _ => None,
    }
}

fn to_json(history: &[Epoch]) -> Value {
    let score = |s: Score| json!([s.loss, s.correct, s.images]);
    history.iter().map(|e| json!([score(e.training), score(e.held_back)])).collect()
}

fn from_json(text: &str) -> Option<Vec<Epoch>> {
    let score = |value: &Value| {
        Some(Score {
            loss: value.get(0)?.as_f64()?,
            correct: value.get(1)?.as_u64()?.try_into().ok()?,
            images: value.get(2)?.as_u64()?.try_into().ok()?,
        })
    };
    let epoch = |value: &Value| Some(Epoch { training: score(value.get(0)?)?, held_back: score(value.get(1)?)? });
    serde_json::from_str::<Value>(text).ok()?.as_array()?.iter().map(epoch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_under_way_is_written_whatever_fails() {
        let folder = std::env::temp_dir().join(format!("wgpu-optim-saving-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("run.safetensors");
        // Long enough to be under way.
        let slot = |t: usize| wgpu_optim::TensorState {
            name: format!("w{t}"),
            shape: vec![1 << 20],
            rule: "sgd".to_owned(),
            steps: 1,
            weight_sum: 0.0,
            slots: vec![("momentum_buffer".to_owned(), vec![0.5; 1 << 20])],
            storage: Vec::new(),
        };
        let state = wgpu_optim::OptimizerState { tensors: (0..16).map(slot).collect(), ..Default::default() };
        let mut saver = Saver::new(&path, Course { seed: 0, batch: 1, epochs: 1 });
        saver.add(0, Saving::Ready(Checkpoint::new(state)));
        saver.go_on(&[]).unwrap();
        drop(saver);
        let there = path.exists();
        std::fs::remove_dir_all(folder).unwrap();
        assert!(there);
    }

    #[test]
    fn scores_come_back_to_the_bit() {
        let score = |loss| Score { loss, correct: 3, images: 7 };
        let history: Vec<_> = (1..200)
            .map(|i| Epoch { training: score(1.0 / f64::from(i)), held_back: score(f64::from(i).sqrt() / 7.0) })
            .collect();
        let read = from_json(&to_json(&history).to_string()).unwrap();
        assert!(read.iter().zip(&history).all(|(a, b)| a.training == b.training && a.held_back == b.held_back));
        assert_eq!(read.len(), history.len());
        for bad in ["", "[", "7", "[[1, 2]]", "[[[1.0, -1, 2], [1.0, 1, 2]]]", "[[[\"x\", 1, 2], [1.0, 1, 2]]]"] {
            assert!(from_json(bad).is_none(), "{bad}");
        }
    }
}
