use wgpu_optim::plan::Plan;
use wgpu_optim::shader::{self, Access, Kernel};
use wgpu_optim::{EmaConfig, OptimizerConfig, TensorSpec, WeightsConfig, rules};

use crate::error::{Error, Result};
use crate::output;
use crate::storage::Storage;

/// Print the WGSL of a kernel as it is composed for a rule
///
/// With the default options of the rule, a clip by global norm, a limit of the weights and a moving average of them, so that
/// there is every pass that goes with them; for a matrix in f32 memory that kernels reach by vectors of four.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim kernel adamw
  wgpu-optim kernel lamb --entry measure
  wgpu-optim kernel adamw --storage q8 | less
  wgpu-optim kernel adafactor --entry list        # what there is")]
pub struct Args {
    /// The rule
    rule: String,

    /// How parameters, gradients and state are stored
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    storage: Storage,

    /// Its entry point; "list" lists those that there are
    #[arg(long, default_value = "update")]
    entry: String,
}

pub fn run(args: &Args) -> Result<()> {
    let kernels = kernels(args)?;
    if args.entry == "list" {
        return output::print(&kernels.iter().map(|kernel| format!("{}\n", kernel.entry)).collect::<String>());
    }
    let Some(kernel) = kernels.iter().find(|kernel| kernel.entry == args.entry) else {
        let known: Vec<_> = kernels.iter().map(|kernel| kernel.entry).collect();
        let problem = format!("--entry {:?}: no such kernel; there are {}", args.entry, known.join(", "));
        return Err(Error::input(problem));
    };
    let constants = kernel.constants.iter().map(|(name, value)| format!("// {name} = {value}\n"));
    output::print(&format!("// Values of constants:\n{}\n{}", constants.collect::<String>(), kernel.source))
}

/// One of each entry point, in the order of a step.
fn kernels(args: &Args) -> Result<Vec<Kernel>> {
    let mut config = OptimizerConfig::from_boxed(rules::by_name(&args.rule)?);
    config.storage = args.storage.config();
    config.gradient.clip_global_norm = Some(1.0);
    config.weights = WeightsConfig { max_norm: Some(1.0), ..WeightsConfig::default() };
    let averaged = OptimizerConfig { ema: Some(EmaConfig::default()), ..config.clone() };
    // A storage without room for it has none.
    let config = if averaged.check().is_ok() { averaged } else { config };
    let plan = Plan::new(&config, &[TensorSpec::new("matrix", [64, 64])])?;
    let access = Access { vector: true, ..Access::default() };
    let variant = plan.variant_of(0);
    let mut kernels: Vec<Kernel> = Vec::new();
    for pass in plan.passes(false) {
        let kernel = shader::of_pass(pass, &plan, variant, access);
        if kernels.iter().all(|known| known.entry != kernel.entry) {
            kernels.push(kernel);
        }
    }
    Ok(kernels)
}
