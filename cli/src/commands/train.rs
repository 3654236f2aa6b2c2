use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use wgpu_optim::plan::Plan;
use wgpu_optim::{Format, Gpu, OptimizerConfig, OptionField, StateFormat};

use crate::backend::{self, Backend};
use crate::digits::Digits;
use crate::error::{Error, Result};
use crate::health;
use crate::interrupt::{self, Hold};
use crate::network::Epoch;
use crate::network::trainer::{CpuTrainer, GpuTrainer, Steps, Trainer};
use crate::network::{self, Score};
use crate::output::{self, Outputs};
use crate::progress::{Progress, Verbosity};
use crate::resuming::Allowed;
use crate::saving::{Course, Resumed, Saver};
use crate::{input, plot, report, tensor_file};

/// Train a small network on handwritten digits, all on the GPU
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim train
  wgpu-optim train --epochs 40 --plot loss.svg --params-out digits.safetensors
  wgpu-optim train --report run.html
  wgpu-optim train --config run.toml --seed 7 --json
  wgpu-optim train --checkpoint run.safetensors
  wgpu-optim train --checkpoint run.safetensors --resume run.safetensors
  wgpu-optim train --epochs 40 --resume run.safetensors --allow epochs
  wgpu-optim train --storage bf16 --state q8

Without --config: adamw with lr 5e-3, falling along half a cosine to 0 over the run.
With [gradient].accumulate the mini-batches of a step may be of two epochs; the last
ones of a run that make no whole step are told. Ctrl-C and SIGTERM end the run after
the epoch under way, with a last checkpoint if there is --checkpoint, and else at once.
The data: 1,797 images of 8x8 pixels, of which 360 are held back
(E. Alpaydin and C. Kaynak 1998, CC BY 4.0).
The tensors: layer1.weight, layer1.bias to layer3.weight, layer3.bias.")]
pub struct Args {
    /// The run configuration
    #[arg(long, value_name = "RUN.toml")]
    config: Option<PathBuf>,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Images in a mini-batch; the last of an epoch has what is left
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1437))]
    batch: u32,
    /// Decides the first parameters and the order of the images
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// Draw loss, accuracy and the gradients' health
    #[arg(long, value_name = "LOSS.svg")]
    plot: Option<PathBuf>,
    /// Write a report of the run: curves, health, configuration, in one file for a browser
    #[arg(long, value_name = "RUN.html")]
    report: Option<PathBuf>,
    /// Where the trained parameters go
    #[arg(long, value_name = "P.safetensors")]
    params_out: Option<PathBuf>,
    /// Where a checkpoint of the run goes, again and again while it trains
    #[arg(long, value_name = "FILE.safetensors")]
    checkpoint: Option<PathBuf>,
    /// Epochs from one checkpoint to the next; the last epoch has one in any case
    #[arg(long, value_name = "N", default_value_t = 1, requires = "checkpoint", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: u32,
    /// Goes on from a checkpoint of a run with the same seed, batch and configuration, to the same bits
    #[arg(long, value_name = "FILE.safetensors")]
    resume: Option<PathBuf>,
    /// What may differ from the checkpoint's run, with commas between: seed, batch, epochs where the schedule
    /// depends on them, and keys or tables of the configuration, such as optimizer.lr or groups
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "resume")]
    allow: Vec<String>,
    /// How parameters and gradients are stored; over the configuration's [storage]
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    storage: Option<Format>,
    /// How the optimizer's state is stored, likewise: f32, bf16 or q8
    #[arg(long, value_name = "FORMAT", value_parser = state_format)]
    state: Option<StateFormat>,
    #[command(flatten)]
    verbosity: Verbosity,
    /// Print the summary and the scores of every epoch as JSON
    #[arg(long)]
    json: bool,
}

fn format(word: &str) -> Result<Format, String> {
    Format::from_value(&word.into()).ok_or_else(|| format!("expected {}", Format::EXPECTED))
}

fn state_format(word: &str) -> Result<StateFormat, String> {
    StateFormat::from_value(&word.into()).ok_or_else(|| format!("expected {}", StateFormat::EXPECTED))
}

impl Args {
    fn storage(&self, config: &mut OptimizerConfig) {
        if let Some(format) = self.storage {
            config.storage.params = format;
            config.storage.gradients = format;
        }
        config.storage.state = self.state.unwrap_or(config.storage.state);
    }
}

pub fn run(args: &Args, options: Vec<(String, String)>) -> Result<()> {
    let digits = Digits::load();
    let paths =
        [&args.plot, &args.report, &args.params_out, &args.checkpoint].into_iter().flatten().map(PathBuf::as_path);
    let outputs = Outputs::new(paths)?.sparing(&args.config)?;
    plot::check_name(args.plot.as_deref())?;
    let allowed = Allowed::new(&args.allow, &["seed", "batch", "epochs"])?;
    let text = match &args.config {
        Some(path) => input::text(path)?,
        None => default_config(args, &digits),
    };
    let path = args.config.as_deref().unwrap_or(Path::new("the default configuration"));
    let mut config = input::parse(path, &text)?;
    args.storage(&mut config);
    // Whether it fits the network shows without a device.
    let plan = plan(&config).map_err(|e| e.about(path))?;
    let resumed = args.resume.as_deref().map(|path| resumed(args, path, &config, allowed)).transpose()?;
    let (resumed, config) = match resumed {
        Some((resumed, agreed)) => (Some(resumed), agreed),
        None => (None, config),
    };
    let left = micro_batches_left(args, &config, resumed.as_ref(), &digits)?;
    let gpu = args.backend.open()?;
    let started = Instant::now();
    // State is loaded under the configuration that it is of, and then follows to the one that is asked for.
    let before = resumed.as_ref().and_then(|r| r.config.as_ref()).unwrap_or(&config);
    let mut trainer = trainer(args, gpu.as_ref(), before, &digits)?;
    let mut history = Vec::new();
    if let (Some(Resumed { checkpoint, history: scores, .. }), Some(path)) = (&resumed, &args.resume) {
        trainer.resume(checkpoint)?;
        if !before.differences(&config).is_empty() {
            trainer.reconfigure(&config).map_err(|e| e.about(path))?;
        }
        history.clone_from(scores);
    }
    drop(resumed);
    train(args, trainer.as_mut(), &digits, &mut history)?;
    let steps = trainer.steps()?;
    let params = trainer.params()?;
    let seconds = started.elapsed().as_secs_f64();
    if params.iter().flatten().any(|p| !p.is_finite()) {
        return Err(Error::failed("training diverged: there are parameters that are not finite"));
    }

    let mut contents = Vec::new();
    if args.plot.is_some() {
        let charts = plot::training::all(&history, trainer.telemetry());
        contents.push(plot::grid(&charts, 2, (500, 420))?.into_bytes());
    }
    let run = report::Run {
        config: &config.to_toml(),
        written: args.config.as_ref().map(|_| text.as_str()),
        options: &options,
        place: &backend::place(gpu.as_ref()),
        history: &history,
        steps,
        left,
        seconds,
        telemetry: trainer.telemetry(),
    };
    if args.report.is_some() {
        contents.push(report::html(&run)?.into_bytes());
    }
    if args.params_out.is_some() {
        let formats: Vec<_> = (0..params.len()).map(|t| plan.formats_of(t)[0]).collect();
        contents.push(tensor_file::serialize(&network::specs(), &params, &formats, None)?);
    }
    outputs.write(&contents)?;
    summarize(args, &run, backend::name(gpu.as_ref()))
}

/// The plan for the network's tensors.
///
/// # Errors
/// The configuration does not fit them, or asks for what does not happen here.
fn plan(config: &OptimizerConfig) -> Result<Plan> {
    if config.gradient.loss_scale.is_some() {
        return Err(Error::input("gradient.loss_scale: the loss is not scaled here; leave it out"));
    }
    let plan = Plan::new(config, &network::specs())?;
    if (0..plan.tensors.len()).all(|t| plan.group_of(t).frozen) {
        return Err(Error::input("groups: all tensors are frozen, so nothing would be trained"));
    }
    Ok(plan)
}

/// Mini-batches of the run that will not make a whole step. Says so if there are any.
///
/// # Errors
/// None of them does.
fn micro_batches_left(
    args: &Args,
    config: &OptimizerConfig,
    resumed: Option<&Resumed>,
    digits: &Digits,
) -> Result<u64> {
    let accumulate = config.gradient.accumulate;
    let state = resumed.map(|resumed| &resumed.checkpoint.state);
    let done = resumed.map_or(0, |resumed| resumed.history.len()) as u64;
    let epochs = u64::from(args.epochs).saturating_sub(done);
    let ahead = epochs * network::steps(digits.training.len(), args.batch as usize) as u64;
    let all = ahead + state.map_or(0, |state| state.micro_batches);
    if ahead > 0 && all < accumulate && state.is_none_or(|state| state.steps_taken == 0) {
        return Err(Error::input(format!(
            "gradient.accumulate: {accumulate} mini-batches make a step, and {all} are all that there are: nothing would \
             be trained. Take more --epochs or a smaller --batch"
        )));
    }
    let left = all % accumulate;
    if left > 0 && ahead > 0 {
        let kept = if args.checkpoint.is_some() { "; the checkpoint keeps their sum" } else { "" };
        output::notice(&format!(
            "gradient.accumulate = {accumulate}: the last {left} mini-batches make no whole step{kept}"
        ));
    }
    Ok(left)
}

/// Without `--config`: half a cosine over the run.
fn default_config(args: &Args, digits: &Digits) -> String {
    let steps = network::steps(digits.training.len(), args.batch as usize) as u64 * u64::from(args.epochs);
    format!(
        "[optimizer]\nrule = \"adamw\"\nlr = 5e-3\n\n[schedule]\nkind = \"cosine\"\ntotal_steps = {steps}\nmin_lr = 0.0\n"
    )
}

fn trainer(args: &Args, gpu: Option<&Gpu>, config: &OptimizerConfig, digits: &Digits) -> Result<Box<dyn Trainer>> {
    let params = network::initial_params(args.seed);
    let batch = args.batch as usize;
    Ok(match gpu {
        Some(gpu) => Box::new(GpuTrainer::new(gpu, config, digits, &params, batch)?),
        None => Box::new(CpuTrainer::new(config, digits, &params, batch)?),
    })
}

fn course(args: &Args) -> Course {
    Course { seed: args.seed, batch: args.batch, epochs: args.epochs }
}

/// The run to go on with, and the configuration under which it does.
fn resumed(
    args: &Args,
    path: &Path,
    config: &OptimizerConfig,
    allowed: Allowed<'_>,
) -> Result<(Resumed, OptimizerConfig)> {
    let mut resumed = Resumed::read(path, config)?;
    let config = resumed.agree(path, course(args), config.clone(), args.config.is_none(), allowed)?;
    let (done, asked) = (resumed.history.len(), args.epochs);
    match done as u64 <= u64::from(asked) {
        true => Ok((resumed, config)),
        false => Err(Error::file(path, format!("has {done} epochs already, and --epochs asks for {asked}"))),
    }
}

fn train(args: &Args, trainer: &mut dyn Trainer, digits: &Digits, history: &mut Vec<Epoch>) -> Result<()> {
    // What has been trained can be kept: an end waits for that.
    let hold = args.checkpoint.is_some().then(Hold::new);
    let progress = Progress::new(args.verbosity, args.epochs as usize, "epochs");
    let mut saver = args.checkpoint.as_deref().map(|path| Saver::new(path, course(args)));
    let done = history.len();
    progress.skip(done);
    // Of a run that was at its end already too.
    if let Some(saver) = saver.as_mut().filter(|_| done == args.epochs as usize) {
        saver.add(done, trainer.checkpoint()?);
    }
    for (epoch, order) in (1..=args.epochs as usize).zip(digits.orders(args.seed)).skip(done) {
        let arrived = trainer.epoch(&order)?;
        note(arrived, history, &progress)?;
        if let Some(saver) = &mut saver {
            let stop = interrupt::check().is_err();
            if stop || epoch.is_multiple_of(args.checkpoint_every as usize) || epoch == args.epochs as usize {
                saver.add(epoch, trainer.checkpoint()?);
            }
            saver.go_on(history)?;
            if stop {
                break;
            }
        }
    }
    note(trainer.finish()?, history, &progress)?;
    if let Some(saver) = &mut saver {
        saver.go_on(history)?;
        saver.finish()?;
    }
    drop(hold);
    let epochs = history.len();
    let kept = |path: &PathBuf| format!("{} holds the run after {epochs} epochs", path.display());
    interrupt::check().map_err(|e| args.checkpoint.as_ref().map(kept).into_iter().fold(e, Error::with))
}

fn note(arrived: Vec<Epoch>, history: &mut Vec<Epoch>, progress: &Progress) -> Result<()> {
    for epoch in arrived {
        history.push(epoch);
        for (what, score) in [("training", epoch.training), ("held-back", epoch.held_back)] {
            if !score.loss.is_finite() {
                let number = history.len();
                return Err(Error::failed(format!(
                    "training diverged: the {what} loss of epoch {number} is not finite"
                )));
            }
        }
        progress.inc();
        progress.message(format!(
            "loss {:.4}, held-back accuracy {:.1} %",
            epoch.training.loss,
            100.0 * epoch.held_back.accuracy()
        ));
    }
    Ok(())
}

fn summarize(args: &Args, run: &report::Run<'_>, backend: &str) -> Result<()> {
    let report::Run { config, place, history, steps: Steps { taken, skipped }, left, seconds, telemetry, .. } = run;
    let last = history.last().ok_or_else(|| Error::failed("no epoch's scores arrived"))?;
    let Score { correct, images, .. } = last.held_back;
    let health = telemetry.looks.last();
    if args.json {
        return output::print_json(&json!({
            "held_back_accuracy": last.held_back.accuracy(),
            "held_back_correct": correct,
            "held_back_images": images,
            "steps_taken": taken,
            "steps_skipped": skipped,
            "micro_batches_left": left,
            "seconds": seconds,
            "seed": args.seed,
            "batch": args.batch,
            "config": config,
            "backend": backend,
            "place": place,
            "epochs": history.iter().map(to_json).collect::<Vec<_>>(),
            "health": health.map(health::to_json),
        }));
    }
    if let Some(health) = health.filter(|_| !args.verbosity.quiet) {
        output::print(&health::table(health))?;
    }
    output::print(&format!(
        "held-back accuracy {:.2} % ({correct} of {images}), {taken} steps taken, {skipped} skipped, \
         {seconds:.1} s on {place}\n",
        100.0 * last.held_back.accuracy()
    ))
}

fn to_json(epoch: &Epoch) -> Value {
    json!({
        "loss": epoch.training.loss,
        "accuracy": epoch.training.accuracy(),
        "held_back_loss": epoch.held_back.loss,
        "held_back_accuracy": epoch.held_back.accuracy(),
    })
}
