//! Checkpoints of a training run: written while it goes on, and gone on from.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use wgpu_optim::gpu::PendingCheckpoint;
use wgpu_optim::step::Plan;
use wgpu_optim::{Checkpoint, Error as LibraryError};

use crate::error::{Error, Result};
use crate::network::Score;
use crate::network::trainer::Epoch;

/// What decides the order of the images, and so must not change within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    pub seed: u64,
    pub batch: u32,
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
}

impl Resumed {
    /// Reads a file, which must be of the same course.
    pub fn read(path: &Path, plan: &Plan, course: Course) -> Result<Self> {
        let checkpoint = Checkpoint::load(path, plan).map_err(|e| match e {
            e @ LibraryError::File { .. } => Error::from(e),
            e => Error::from(e).about(path),
        })?;
        let extra = |key: &str| {
            let value = checkpoint.extra.get(key).map(String::as_str);
            value.ok_or_else(|| Error::file(path, format!("is not of a training run: it says nothing of {key:?}")))
        };
        let (seed, batch) = (extra("seed")?, extra("batch")?);
        if (seed, batch) != (course.seed.to_string().as_str(), course.batch.to_string().as_str()) {
            let Course { seed: given_seed, batch: given_batch } = course;
            return Err(Error::file(
                path,
                format!(
                    "was trained with --seed {seed} --batch {batch}, and --seed {given_seed} --batch {given_batch} is \
                     asked for"
                ),
            ));
        }
        if checkpoint.params.is_none() {
            return Err(Error::file(path, "holds no parameters"));
        }
        let history = from_json(extra("epochs")?).ok_or_else(|| Error::file(path, "its scores cannot be read"))?;
        Ok(Self { checkpoint, history })
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
        let mut saver = Saver::new(&path, Course { seed: 0, batch: 1 });
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
