use clap::ValueEnum;
use serde_json::{Value, json};
use wgpu_optim::plan::{FACTORS, Plan};
use wgpu_optim::{Decay, OnNonfinite, OptimizerConfig, Reduction, Rule, TensorSpec};

use crate::error::Result;
use crate::storage::Storage;
use crate::{output, style};

/// List the rules: options and defaults, state, bytes moved, reference
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim rules
  wgpu-optim rules --json | jq '.[].name'")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let rules = wgpu_optim::rules::all();
    if args.json {
        return output::print_json(&rules.iter().map(|r| to_json(r.as_ref())).collect::<Result<_>>()?);
    }
    let texts = rules.iter().map(|r| describe(r.as_ref())).collect::<Result<Vec<_>>>()?;
    output::print(&texts.join("\n"))
}

/// What a step of the rule moves for each parameter of a vector or a matrix, with the scan that the default
/// configuration asks for, and without.
fn bytes(rule: &dyn Rule, shape: &[u64]) -> Result<[u64; 2]> {
    let tensor = [TensorSpec::new("tensor", shape.to_vec())];
    let of = |on_nonfinite| -> Result<u64> {
        let mut config = OptimizerConfig::from_boxed(rule.boxed());
        config.gradient.on_nonfinite = on_nonfinite;
        Ok(Plan::new(&config, &tensor)?.bytes_moved() / shape.iter().product::<u64>())
    };
    Ok([of(OnNonfinite::Skip)?, of(OnNonfinite::Propagate)?])
}

// Long enough that no rounding of small tensors shows.
const VECTOR: [u64; 1] = [1 << 20];
const MATRIX: [u64; 2] = [1 << 10, 1 << 10];

fn decay(rule: &dyn Rule) -> &'static str {
    match rule.decay() {
        Decay::Coupled(_) => "coupled",
        Decay::Decoupled(_) => "decoupled",
        Decay::InRatio(_) if rule.reduction() == Reduction::Average => "within the step of z",
        Decay::InRatio(_) => "within the ratio",
    }
}

fn slot(slot: &wgpu_optim::Slot) -> String {
    match slot {
        slot if !slot.active => format!("{} (off)", slot.name),
        slot if slot.mean_square => format!("{} (of matrices {})", slot.name, FACTORS.join(", ")),
        slot => slot.name.to_owned(),
    }
}

/// Bytes that parameters, gradients and state of a vector take, for each parameter.
fn resident_bytes(rule: &dyn Rule, storage: Storage) -> Result<f64> {
    let tensor = [TensorSpec::new("tensor", VECTOR)];
    let config = OptimizerConfig::from_boxed(rule.boxed()).storage(storage.config());
    let bytes = Plan::new(&config, &tensor)?.bytes_resident() as f64 / VECTOR[0] as f64;
    // The scales of q8 are a small part.
    Ok((100.0 * bytes).round() / 100.0)
}

fn describe(rule: &dyn Rule) -> Result<String> {
    let [with_scan, without] = bytes(rule, &VECTOR)?;
    let matrices = match bytes(rule, &MATRIX)? {
        same if same == [with_scan, without] => String::new(),
        [with_scan, without] => format!(" (matrices {with_scan} and {without})"),
    };
    let mut resident = Vec::new();
    for storage in Storage::value_variants() {
        resident.push(format!("{} in {}", resident_bytes(rule, *storage)?, storage.name()));
    }
    let options = rule.options().into_iter().map(|(name, value)| match value {
        Some(value) => format!("{name} = {value}"),
        None => format!("{name} (off)"),
    });
    let slots = rule.slots();
    let slots: Vec<_> = slots.iter().map(slot).collect();
    let slots = if slots.is_empty() { "none".to_owned() } else { slots.join(", ") };
    Ok(format!(
        "{}  {}\n  options  {}\n  decay    {}\n  state    {slots}\n  moves    {with_scan} bytes a parameter, {without} \
         without the scan of the gradients{matrices}\n  \
         takes    {} bytes a parameter\n",
        style::heading(rule.name()),
        style::faint(rule.reference()),
        options.collect::<Vec<_>>().join(", "),
        decay(rule),
        resident.join(", "),
    ))
}

fn to_json(rule: &dyn Rule) -> Result<Value> {
    let [with_scan, without] = bytes(rule, &VECTOR)?;
    let [matrix_with_scan, matrix_without] = bytes(rule, &MATRIX)?;
    let options: serde_json::Map<_, _> =
        rule.options().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let slots: Vec<_> =
        rule.slots().iter().map(|s| json!({ "name": s.name, "initial": s.initial, "active": s.active })).collect();
    let resident = Storage::value_variants().iter();
    let resident: serde_json::Map<_, _> = resident
        .map(|storage| Ok((storage.name().to_owned(), json!(resident_bytes(rule, *storage)?))))
        .collect::<Result<_>>()?;
    Ok(json!({
        "name": rule.name(),
        "reference": rule.reference(),
        "options": options,
        "decay": decay(rule),
        "slots": slots,
        "resident_bytes_per_parameter": resident,
        "bytes_per_parameter": with_scan,
        "bytes_per_parameter_without_scan": without,
        "bytes_per_parameter_of_matrices": matrix_with_scan,
        "bytes_per_parameter_of_matrices_without_scan": matrix_without,
    }))
}
