use std::path::{Path, PathBuf};

use serde_json::json;
use wgpu_optim::plan::Plan;
use wgpu_optim::{Checkpoint, LossScale, OptimizerConfig, OptimizerState, Report, TensorSpec};

use crate::backend::{self, Backend};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::output::{self, Outputs};
use crate::progress::{Progress, Verbosity};
use crate::resuming::{self, Allowed};
use crate::tensor_file::{self, TensorFile};
use crate::{input, losses};

/// Apply recorded gradients, to check this library against another
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim replay --config run.toml --params p.safetensors \\
      --grads g0.safetensors g1.safetensors --out o.safetensors
  wgpu-optim replay ... --state-out s.safetensors    keeps the optimizer's state
  wgpu-optim replay ... --state-in s.safetensors     goes on from it, to the same bits
  wgpu-optim replay ... --state-in s.safetensors --allow optimizer.lr
  wgpu-optim replay ... --losses losses.txt          for the schedule \"plateau\"

Files hold tensors in f32, f16 or bf16 under the same names; they are rounded to the
storage that the configuration says, and the parameters are written in it. Gradients
of frozen tensors may be left out and are ignored; with --missing-gradients others
may be left out too, and their tensors then miss the step, state and count. With [gradient].accumulate = k, k
files make a step. A fixed loss scale is divided out; a dynamic one is refused, since
recorded gradients cannot follow it.")]
pub struct Args {
    /// The run configuration
    #[arg(long, value_name = "RUN.toml")]
    config: PathBuf,
    /// The parameters before the first step
    #[arg(long, value_name = "P.safetensors")]
    params: PathBuf,
    /// The gradients in order, one file a step or micro-batch
    #[arg(long, value_name = "G.safetensors", num_args = 1.., required = true)]
    grads: Vec<PathBuf>,
    /// Where the parameters after the last step go
    #[arg(long, value_name = "O.safetensors")]
    out: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// Tensors that a file of gradients lacks have none in that step: they stay as they are
    #[arg(long)]
    missing_gradients: bool,
    /// The optimizer's state before the first step, made with the same configuration
    #[arg(long, value_name = "S.safetensors")]
    state_in: Option<PathBuf>,
    /// What may differ from the configuration that the state was made with, with commas between: keys or tables,
    /// such as optimizer.lr or groups
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "state_in")]
    allow: Vec<String>,
    /// Where the optimizer's state after the last step goes
    #[arg(long, value_name = "S.safetensors")]
    state_out: Option<PathBuf>,
    /// The losses for a plateau schedule, a line each: the nth is reported after step n
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

pub fn run(args: &Args) -> Result<()> {
    let config = input::config(&args.config)?;
    let outputs = Outputs::new([Some(&args.out), args.state_out.as_ref()].into_iter().flatten().map(PathBuf::as_path))?;
    let outputs = outputs.sparing([&args.config].into_iter().chain(&args.losses).chain(&args.grads))?;
    let bytes = input::bytes(&args.params)?;
    let file = TensorFile::parse(&args.params, &bytes)?;
    let specs = file.specs();
    if specs.is_empty() {
        return Err(Error::file(&args.params, "holds no tensors"));
    }
    let params = specs.iter().map(|spec| file.values(spec)).collect::<Result<Vec<_>>>()?;
    let metadata = file.metadata();

    // Whether they fit together shows without a device.
    let plan = Plan::new(&config, &specs).map_err(|e| Error::from(e).about(&args.config))?;
    check_scale(&config).map_err(|e| e.about(&args.config))?;
    let allowed = Allowed::new(&args.allow, &[])?;
    let state = args.state_in.as_deref().map(|path| read_state(path, &plan, &config, allowed)).transpose()?;
    let under_way = state.as_ref().map_or(0, |(state, _)| state.micro_batches);
    let steps = steps(args.grads.len(), under_way, config.gradient.accumulate)?;
    let losses = losses::read(args.losses.as_deref(), &config.schedule, steps)?;

    let gpu = args.backend.open()?;
    // State is loaded under the configuration that it is of, and then follows to the one that is asked for.
    let before = state.as_ref().map_or(&config, |(_, before)| before);
    let mut engine = Engine::new(gpu.as_ref(), before, &specs, params)?;
    if let Some((state, before)) = &state {
        engine.load_state(state)?;
        if !before.differences(&config).is_empty() {
            engine.reconfigure(&config).map_err(|e| args.state_in.iter().fold(e, |e, path| e.about(path)))?;
        }
    }
    let progress = Progress::new(args.verbosity, args.grads.len(), "files");
    let mut last = None;
    let mut never: Vec<_> = specs.iter().map(|spec| Some(spec.name.as_str())).collect();
    let mut losses = losses.into_iter();
    for (path, micro_batches) in args.grads.iter().zip(under_way + 1..) {
        let gradients = read_gradients(args, path, &specs, engine.plan())?;
        never.iter_mut().zip(&gradients).filter(|(_, g)| g.is_some()).for_each(|(name, _)| *name = None);
        last = engine.step(&gradients)?;
        if micro_batches % config.gradient.accumulate == 0
            && let Some(loss) = losses.next()
        {
            engine.report_loss(loss)?;
        }
        progress.inc();
    }
    drop(progress);
    let never: Vec<_> = (0..).zip(never).filter(|(t, _)| !engine.plan().group_of(*t).frozen).collect();
    for name in never.into_iter().filter_map(|(_, name)| name) {
        output::notice(&format!("--missing-gradients: {name:?} has no gradient in any file, and stays as it was"));
    }
    let report = last.ok_or_else(|| Error::failed("the device sent no report of the last step"))?;

    let formats: Vec<_> = (0..specs.len()).map(|t| engine.plan().formats_of(t)[0]).collect();
    let mut contents = vec![tensor_file::serialize(&specs, &engine.params()?, &formats, metadata)?];
    if args.state_out.is_some() {
        contents.push(engine.state()?.to_safetensors()?);
    }
    outputs.write(&contents)?;
    summarize(args, &report, &backend::place(gpu.as_ref()), backend::name(gpu.as_ref()))
}

/// Recorded gradients were scaled before anyone knew what this run would make of the scale.
fn check_scale(config: &OptimizerConfig) -> Result<()> {
    match config.gradient.loss_scale {
        Some(LossScale::Dynamic(_)) => Err(Error::input(
            "gradient.loss_scale: a dynamic one cannot be replayed, since recorded gradients do not follow it; give \
             the number that the loss was multiplied with",
        )),
        _ => Ok(()),
    }
}

/// The steps that those files make, with the micro-batches that the state has already.
fn steps(files: usize, under_way: u64, accumulate: u64) -> Result<u64> {
    let micro_batches = files as u64 + under_way;
    if micro_batches.is_multiple_of(accumulate) {
        return Ok(micro_batches / accumulate);
    }
    let more = match under_way {
        0 => String::new(),
        n => format!(" and {n} micro-batches in the state"),
    };
    Err(Error::input(format!(
        "--grads: {files} files{more} make no whole number of steps: gradient.accumulate = {accumulate}, and {} would \
         be left over",
        micro_batches % accumulate
    )))
}

/// The state, and the configuration to load it under: the one that it was made with, stored as `config` asks for, or
/// `config` itself where the file does not say.
fn read_state(
    path: &Path,
    plan: &Plan,
    config: &OptimizerConfig,
    allowed: Allowed<'_>,
) -> Result<(OptimizerState, OptimizerConfig)> {
    let bytes = input::bytes(path)?;
    let about = |e: wgpu_optim::Error| Error::from(e).about(path);
    let Some(before) = resuming::saved_config(path, &bytes)? else {
        let state = OptimizerState::from_safetensors(&bytes, plan).map_err(about)?;
        return Ok((state, config.clone()));
    };
    resuming::check(path, resuming::told(&before.differences(config)), allowed)?;
    let specs: Vec<_> = plan.tensors.iter().map(|planned| planned.spec.clone()).collect();
    let stored = resuming::stored_as(&before, config);
    let plan = Plan::new(&stored, &specs).map_err(about)?;
    let state = if stored.storage == before.storage {
        OptimizerState::from_safetensors(&bytes, &plan)
    } else {
        Checkpoint::convert_from_safetensors(&bytes, &plan).map(|checkpoint| checkpoint.state)
    };
    Ok((state.map_err(about)?, stored))
}

fn read_gradients(args: &Args, path: &Path, specs: &[TensorSpec], plan: &Plan) -> Result<Vec<Option<Vec<f32>>>> {
    let bytes = input::bytes(path)?;
    let file = TensorFile::parse(path, &bytes)?;
    file.check_only(specs)?;
    let values = |(tensor, spec): (usize, &TensorSpec)| {
        match file.has(&spec.name) {
        _ if plan.group_of(tensor).frozen => Ok(None),
        true => file.values(spec).map(Some),
        false if args.missing_gradients => Ok(None),
        false => Err(file.problem(format!(
            "lacks tensor {:?}: only frozen tensors need no gradient. --missing-gradients leaves others out of the step too",
            spec.name
        ))),
    }
    };
    specs.iter().enumerate().map(values).collect()
}

fn summarize(args: &Args, report: &Report, place: &str, backend: &str) -> Result<()> {
    let Report { steps_taken, steps_skipped, global_norm, .. } = *report;
    if args.json {
        return output::print_json(&json!({
            "steps_taken": steps_taken,
            "steps_skipped": steps_skipped,
            "global_norm": global_norm,
            "backend": backend,
            "place": place,
            "out": args.out.to_string_lossy(),
            "state_out": args.state_out.as_ref().map(|path| path.to_string_lossy()),
        }));
    }
    let norm = global_norm.map(|norm| format!(", last global norm {norm:.6e}")).unwrap_or_default();
    output::print(&format!("{steps_taken} steps taken, {steps_skipped} skipped{norm}; on {place}\n"))
}
