//! Training, an epoch at a time.

use ndarray::{Array2, ArrayView2, Axis};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::plan::Plan;
use wgpu_optim::schedule::Kind;
use wgpu_optim::wgpu::CommandEncoder;
use wgpu_optim::{Arena, Checkpoint, Gpu, HealthConfig, Optimizer, OptimizerConfig, TensorParams};

use super::cpu::{self, Linear};
use super::gpu::GpuNetwork;
use super::telemetry::Telemetry;
use super::{Epoch, Outcome, Score, batches, specs};
use crate::digits::{Digits, PIXELS};
use crate::error::{Error, Result};
use crate::readback::Readback;
use crate::saving::Saving;

/// What became of the steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Steps {
    pub taken: u64,
    pub skipped: u64,
}

pub trait Trainer {
    /// Trains an epoch on the training images in that order. Gives the scores that have arrived, of
    /// this epoch or those before it, oldest first. A `plateau` schedule is told the mean training loss.
    fn epoch(&mut self, order: &[u32]) -> Result<Vec<Epoch>>;

    /// Waits for the scores that have not arrived.
    fn finish(&mut self) -> Result<Vec<Epoch>>;

    /// Steps taken and skipped so far.
    fn steps(&self) -> Result<Steps>;

    /// The parameters to evaluate with, in the order of [`specs`].
    fn params(&mut self) -> Result<Vec<Vec<f32>>>;

    /// A checkpoint of all that has been trained so far.
    fn checkpoint(&mut self) -> Result<Saving>;

    /// Goes on from a checkpoint with parameters.
    fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// Goes on with another configuration; state follows where the tensors' rules are the same.
    fn reconfigure(&mut self, config: &OptimizerConfig) -> Result<()>;

    /// What the backend told of the steps.
    fn telemetry(&self) -> &Telemetry;
}

/// Which weights to evaluate with.
#[derive(Debug, Clone, Copy)]
enum Evaluation {
    Plain,
    Ema,
    Iterates,
}

impl Evaluation {
    fn of(plan: &Plan) -> Self {
        match (plan.ema.is_some(), plan.averages()) {
            (true, _) => Self::Ema,
            (false, true) => Self::Iterates,
            (false, false) => Self::Plain,
        }
    }
}

/// Whether the schedule goes by the loss.
fn watches(config: &OptimizerConfig) -> bool {
    matches!(config.schedule.kind, Kind::Plateau(_))
}

/// Steps in one submission: the device starts early, and the host does not submit each by itself.
/// After each, the host picks up what has arrived.
const SUBMISSION: usize = 16;

/// Looks at the gradients' health in an epoch.
const LOOKS: usize = 3;

/// Epochs submitted and not known to be done. More would only fill queues, and with small
/// mini-batches the optimizer's table of coming steps.
const IN_FLIGHT: usize = 2;

#[derive(Debug)]
pub struct GpuTrainer {
    gpu: Gpu,
    network: GpuNetwork,
    optimizer: Optimizer,
    watches: bool,
    readbacks: [Readback; IN_FLIGHT],
    epochs: usize,
    telemetry: Telemetry,
}

impl GpuTrainer {
    pub fn new(
        gpu: &Gpu,
        config: &OptimizerConfig,
        digits: &Digits,
        params: &[Vec<f32>],
        batch: usize,
    ) -> Result<Self> {
        let specs = specs();
        let plan = Plan::new(config, &specs)?;
        let arena = Arena::for_config(gpu, config, specs.clone())?;
        for (spec, values) in specs.iter().zip(params) {
            arena.write_params(&spec.name, values)?;
        }
        let network = GpuNetwork::new(gpu, &plan, &arena, digits, batch)?;
        let bytes = network.training.outcomes.size() + network.held_back.outcomes.size();
        let readbacks = std::array::from_fn(|_| Readback::new(gpu.device(), bytes));
        // Last: what the device refused above comes out here.
        let mut optimizer = Optimizer::new(gpu, config, arena.tensors().to_vec())?;
        let interval = network.training.batches().div_ceil(LOOKS) as u64;
        optimizer.set_health(Some(HealthConfig { interval, ..HealthConfig::default() }))?;
        let telemetry = Telemetry::default();
        let watches = watches(config);
        Ok(Self { gpu: gpu.clone(), network, optimizer, watches, readbacks, epochs: 0, telemetry })
    }

    /// Records that the parameters become those to evaluate with.
    fn begin_evaluation(&mut self, encoder: &mut CommandEncoder) -> Result<()> {
        match Evaluation::of(self.optimizer.plan()) {
            Evaluation::Plain => Ok(()),
            Evaluation::Ema => Ok(self.optimizer.swap_ema(encoder)?),
            Evaluation::Iterates => Ok(self.optimizer.begin_evaluation(encoder)?),
        }
    }

    /// Records that they become again those to train with.
    fn end_evaluation(&mut self, encoder: &mut CommandEncoder) -> Result<()> {
        match Evaluation::of(self.optimizer.plan()) {
            Evaluation::Plain => Ok(()),
            Evaluation::Ema => Ok(self.optimizer.swap_ema(encoder)?),
            Evaluation::Iterates => Ok(self.optimizer.end_evaluation(encoder)?),
        }
    }

    /// Picks up what has arrived.
    fn pick_up(&mut self) -> Result<()> {
        self.telemetry.report(self.optimizer.report()?);
        self.telemetry.look(self.optimizer.health()?);
        Ok(())
    }

    fn scores(&self, values: &[f32]) -> Epoch {
        let outcomes: Vec<_> =
            values.chunks_exact(2).map(|pair| Outcome { loss: f64::from(pair[0]), correct: pair[1] != 0.0 }).collect();
        let (training, held_back) = outcomes.split_at(self.network.training.outcomes.size() as usize / 8);
        Epoch { training: Score::of(training), held_back: Score::of(held_back) }
    }
}

impl Trainer for GpuTrainer {
    fn epoch(&mut self, order: &[u32]) -> Result<Vec<Epoch>> {
        let gpu = self.gpu.clone();
        let (device, queue) = (gpu.device(), gpu.queue());
        let slot = self.epochs % IN_FLIGHT;
        let arrived = self.readbacks[slot].take(true)?;

        queue.write_buffer(&self.network.training.order, 0, bytemuck::cast_slice(order));
        let all: Vec<_> = (0..self.network.training.batches()).collect();
        for steps in all.chunks(SUBMISSION) {
            let mut encoder = device.create_command_encoder(&Default::default());
            for &batch in steps {
                self.network.record_gradients(&mut encoder, batch);
                self.optimizer.step(&mut encoder)?;
            }
            queue.submit([encoder.finish()]);
            self.pick_up()?;
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        self.begin_evaluation(&mut encoder)?;
        self.network.record_judging(&mut encoder);
        self.end_evaluation(&mut encoder)?;
        let outcomes = [&self.network.training.outcomes, &self.network.held_back.outcomes];
        self.readbacks[slot].record(&mut encoder, &outcomes.map(|buffer| buffer.slice(..)));
        queue.submit([encoder.finish()]);
        self.readbacks[slot].request();
        self.epochs += 1;
        let mut scores: Vec<_> = arrived.iter().map(|values| self.scores(values)).collect();
        // The next epoch's rate depends on this one's loss: nothing can be in flight.
        if self.watches
            && let Some(values) = self.readbacks[slot].take(true)?
        {
            let epoch = self.scores(&values);
            self.optimizer.report_loss(epoch.training.loss)?;
            scores.push(epoch);
        }
        Ok(scores)
    }

    fn finish(&mut self) -> Result<Vec<Epoch>> {
        let mut scores = Vec::new();
        for slot in self.epochs..self.epochs + IN_FLIGHT {
            if let Some(values) = self.readbacks[slot % IN_FLIGHT].take(true)? {
                scores.push(self.scores(&values));
            }
            self.pick_up()?;
        }
        Ok(scores)
    }

    fn steps(&self) -> Result<Steps> {
        // Not from the newest report: a step that found no free slot for one has none.
        let state = self.optimizer.state_blocking()?;
        Ok(Steps { taken: state.steps_taken, skipped: state.steps_skipped })
    }

    fn params(&mut self) -> Result<Vec<Vec<f32>>> {
        let gpu = self.gpu.clone();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.begin_evaluation(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
        let params = self.optimizer.params_blocking()?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.end_evaluation(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
        Ok(params)
    }

    fn checkpoint(&mut self) -> Result<Saving> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let pending = self.optimizer.record_checkpoint(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(Saving::Pending(pending))
    }

    fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        Ok(self.optimizer.load_checkpoint(checkpoint)?)
    }

    fn reconfigure(&mut self, config: &OptimizerConfig) -> Result<()> {
        let tensors = self.optimizer.tensors().to_vec();
        self.optimizer.reconfigure(config, tensors)?;
        self.watches = watches(config);
        Ok(())
    }

    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }
}

#[derive(Debug)]
pub struct CpuTrainer {
    network: Vec<Linear<f32>>,
    optimizer: CpuOptimizer<f32>,
    watches: bool,
    images: Array2<f32>,
    labels: Vec<u8>,
    held_back: Vec<u32>,
    batch: usize,
    steps: Steps,
    telemetry: Telemetry,
}

impl CpuTrainer {
    pub fn new(config: &OptimizerConfig, digits: &Digits, params: &[Vec<f32>], batch: usize) -> Result<Self> {
        let images = ArrayView2::from_shape((digits.labels.len(), PIXELS), &digits.images);
        let mut optimizer = CpuOptimizer::new(config, &specs())?;
        let steps = batches(digits.labels.len() - digits.held_back.len(), batch).len();
        let interval = steps.div_ceil(LOOKS).max(1) as u64;
        optimizer.set_health(Some(HealthConfig { interval, ..HealthConfig::default() }))?;
        Ok(Self {
            network: cpu::network(params)?,
            optimizer,
            watches: watches(config),
            images: images.map_err(Error::failed)?.to_owned(),
            labels: digits.labels.clone(),
            held_back: digits.held_back.clone(),
            batch,
            steps: Steps::default(),
            telemetry: Telemetry::default(),
        })
    }

    /// The network with the weights to evaluate with.
    fn evaluation_network(&mut self) -> Result<Vec<Linear<f32>>> {
        let mut network = self.network.clone();
        match Evaluation::of(self.optimizer.plan()) {
            Evaluation::Plain => {}
            // In a copy: the weights to train with never leave their place.
            Evaluation::Ema => self.optimizer.clone().swap_ema(&mut cpu::views(&mut network))?,
            Evaluation::Iterates => {
                let weights = self.optimizer.evaluation_weights(&cpu::views(&mut network))?;
                for (mut params, weights) in cpu::views(&mut network).into_iter().zip(weights) {
                    params.assign(&weights);
                }
            }
        }
        Ok(network)
    }

    fn gather(&self, order: &[u32]) -> (Array2<f32>, Vec<u8>) {
        let places: Vec<_> = order.iter().map(|image| *image as usize).collect();
        (self.images.select(Axis(0), &places), places.iter().map(|image| self.labels[*image]).collect())
    }
}

impl Trainer for CpuTrainer {
    fn epoch(&mut self, order: &[u32]) -> Result<Vec<Epoch>> {
        let mut training = Vec::with_capacity(order.len());
        for batch in batches(order.len(), self.batch) {
            let (images, labels) = self.gather(&order[batch]);
            let (gradients, outcomes) = cpu::gradients(&self.network, images, &labels);
            training.extend(outcomes);
            let mut tensors: Vec<_> = self
                .network
                .iter_mut()
                .zip(&gradients)
                .flat_map(|(layer, gradient)| {
                    [
                        CpuTensor::new(layer.weight.view_mut().into_dyn(), gradient.weight.view().into_dyn()),
                        CpuTensor::new(layer.bias.view_mut().into_dyn(), gradient.bias.view().into_dyn()),
                    ]
                })
                .collect();
            let report = self.optimizer.step(&mut tensors)?;
            self.steps = Steps { taken: report.steps_taken, skipped: report.steps_skipped };
            self.telemetry.report(Some(report));
            self.telemetry.look(self.optimizer.health());
        }
        let (images, labels) = self.gather(&self.held_back);
        let held_back = Score::of(&cpu::judge(&self.evaluation_network()?, images, &labels));
        let training = Score::of(&training);
        if self.watches {
            self.optimizer.report_loss(training.loss)?;
        }
        Ok(vec![Epoch { training, held_back }])
    }

    fn finish(&mut self) -> Result<Vec<Epoch>> {
        Ok(Vec::new())
    }

    fn steps(&self) -> Result<Steps> {
        Ok(self.steps)
    }

    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn checkpoint(&mut self) -> Result<Saving> {
        let checkpoint = Checkpoint::new(self.optimizer.state());
        Ok(Saving::Ready(checkpoint.with_params(self.optimizer.plan(), cpu::params(&self.network))?))
    }

    fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let plan = self.optimizer.plan();
        let saved = checkpoint.params_in_order(plan)?.ok_or_else(|| Error::input("the checkpoint lacks parameters"))?;
        // A file may have been written under another storage.
        let stored = |(t, saved): (usize, &TensorParams)| -> Vec<f32> {
            saved.values.iter().map(|x| plan.formats_of(t)[0].round(*x)).collect()
        };
        let params: Vec<_> = saved.into_iter().enumerate().map(stored).collect();
        self.optimizer.load_state(&checkpoint.state)?;
        self.network = cpu::network(&params)?;
        let state = &checkpoint.state;
        self.steps = Steps { taken: state.steps_taken, skipped: state.steps_skipped };
        Ok(())
    }

    fn reconfigure(&mut self, config: &OptimizerConfig) -> Result<()> {
        self.optimizer.reconfigure(config, &specs())?;
        self.watches = watches(config);
        Ok(())
    }

    fn params(&mut self) -> Result<Vec<Vec<f32>>> {
        Ok(cpu::params(&self.evaluation_network()?))
    }
}
