//! Training that is interrupted and goes on to the same bits: parameters and state go to one file,
//! copied on the GPU while training goes on, and a new optimizer takes up where the old one stopped, the
//! schedule included.
//!
//! `cargo run --release --example checkpoint_resume`

use std::path::Path;

use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{Arena, Checkpoint, Gpu, Optimizer, OptimizerConfig, Result, TensorSpec};

/// A model of one tensor; its loss is Σ (1 + i mod 7)(wᵢ − sin i)².
struct Training {
    gpu: Gpu,
    arena: Arena,
    optimizer: Optimizer,
}

const ELEMENTS: usize = 1000;

impl Training {
    fn new(gpu: &Gpu) -> Result<Self> {
        let arena = Arena::new(gpu, [TensorSpec::new("w", [ELEMENTS as u64])])?;
        let config = OptimizerConfig::new(AdamW { lr: 0.1, ..AdamW::default() })
            .clip_global_norm(10.0)
            .schedule(Cosine { total_steps: 100, min_lr: 1e-3 });
        let optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;
        Ok(Self { gpu: gpu.clone(), arena, optimizer })
    }

    fn step(&mut self) -> Result<()> {
        // Stands in for a backward pass on the GPU.
        let gradient: Vec<f32> =
            (0..).zip(self.params()?).map(|(i, w)| 2.0 * (1 + i % 7) as f32 * (w - (i as f32).sin())).collect();
        self.arena.write_gradient("w", &gradient)?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.optimizer.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    fn params(&self) -> Result<Vec<f32>> {
        Ok(self.optimizer.params_blocking()?.remove(0))
    }

    /// The copy is recorded like a step; only whoever wants the file waits for it.
    fn save(&mut self, path: &Path) -> Result<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let pending = self.optimizer.record_checkpoint(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        // Beside the target, then renamed: the path never leads to half a file.
        pending.wait()?.with_extra("note", "an example").save(path)
    }

    /// A new process would start here.
    fn resume(gpu: &Gpu, path: &Path) -> Result<Self> {
        let mut training = Self::new(gpu)?;
        // Names, shapes, rules and slots are checked: a file of another model is refused.
        let checkpoint = Checkpoint::load(path, training.optimizer.plan())?;
        training.optimizer.load_checkpoint(&checkpoint)?;
        Ok(training)
    }
}

/// The parameters after 60 steps in one go, and after 25 and 35 with a file between them.
pub fn run(gpu: &Gpu, folder: &Path) -> Result<[Vec<f32>; 2]> {
    let mut whole = Training::new(gpu)?;
    (0..60).try_for_each(|_| whole.step())?;

    let path = folder.join("run.safetensors");
    let mut first = Training::new(gpu)?;
    (0..25).try_for_each(|_| first.step())?;
    first.save(&path)?;
    drop(first);
    let mut second = Training::resume(gpu, &path)?;
    (0..35).try_for_each(|_| second.step())?;

    Ok([whole.params()?, second.params()?])
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let [whole, resumed] = run(&Gpu::headless()?, folder.path())?;
    let same = whole.iter().zip(&resumed).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
    println!("{same} of {ELEMENTS} parameters have the same bits after 60 steps as after 25, a restart and 35 more");
    Ok(())
}
