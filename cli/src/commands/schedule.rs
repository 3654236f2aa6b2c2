use std::path::PathBuf;

use serde_json::json;
use wgpu_optim::plan::Plan;
use wgpu_optim::rates::Rates;
use wgpu_optim::rules::Sgd;
use wgpu_optim::schedule::Kind;
use wgpu_optim::{OptimizerConfig, Schedule};

use crate::error::{Error, Result};
use crate::output::{self, Outputs};
use crate::{input, losses, plot, style};

/// Show the learning rate over the steps of a run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim schedule --config run.toml
  wgpu-optim schedule --config run.toml --steps 500 --plot lr.svg
  wgpu-optim schedule --config plateau.toml --losses losses.txt --json

t counts the steps taken so far, from 0. The rate is that of [optimizer].lr; a
group's own rate keeps its ratio to it.")]
pub struct Args {
    /// The run configuration
    #[arg(long, value_name = "RUN.toml")]
    config: PathBuf,
    /// How many steps [default: until the schedule ends]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=LONGEST))]
    steps: Option<u64>,
    /// The losses for a plateau schedule, a line each: the nth is reported after step n
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
    /// Draw the curve
    #[arg(long, value_name = "LR.svg")]
    plot: Option<PathBuf>,
    /// Print every step as JSON
    #[arg(long)]
    json: bool,
}

/// Steps that can be shown.
const LONGEST: u64 = 10_000_000;
/// Rows of the table, about.
const ROWS: usize = 20;
/// Points of the picture: more do not show.
const POINTS: usize = 2000;
/// Steps of a schedule that has no end.
const ENDLESS: u64 = 1000;

pub fn run(args: &Args) -> Result<()> {
    let config = input::config(&args.config)?;
    let outputs = Outputs::new(args.plot.as_deref())?.sparing([&args.config].into_iter().chain(&args.losses))?;
    plot::check_name(args.plot.as_deref())?;
    let losses = losses::read_all(args.losses.as_deref(), &config.schedule)?;
    let steps = match (args.steps, &args.losses) {
        (Some(steps), Some(path)) if losses.len() as u64 + 1 < steps => {
            let problem = format!("{} losses for {steps} steps: every step but the last needs one", losses.len());
            return Err(Error::file(path, problem));
        }
        (Some(steps), _) => steps,
        (None, Some(_)) => losses.len() as u64 + 1,
        (None, None) => length(&config.schedule).saturating_add(1).min(LONGEST),
    };
    let rates = rates(&config, &losses, steps)?;

    if args.plot.is_some() {
        let points = thinned(rates.len(), POINTS).map(|t| (t as f64, rates[t])).collect();
        outputs.write(&[plot::learning_rate(&name(&config.schedule), points).svg((800, 420))?.into_bytes()])?;
    }
    if args.json {
        let rows = rates.iter().enumerate().map(|(t, lr)| json!({ "t": t, "lr": lr }));
        return output::print_json(&rows.collect());
    }
    let mut text = style::heading(&format!("{:>10}  {:<14}", "t", "learning rate")) + "\n";
    for t in thinned(rates.len(), ROWS) {
        text += &format!("{t:>10}  {:<14}\n", format!("{:.6e}", rates[t]));
    }
    output::print(&text)
}

/// The rate of each step.
fn rates(config: &OptimizerConfig, losses: &[f64], steps: u64) -> Result<Vec<f64>> {
    // There are no tensors for groups to match. The rate is the optimizer's own, whichever rule goes by it.
    let rule = Sgd { lr: config.rule.lr(), ..Sgd::default() };
    let config = OptimizerConfig::new(rule).schedule(config.schedule.clone());
    let mut rates = Rates::new(&Plan::new(&config, &[])?);
    let mut losses = losses.iter();
    let rate = |t| {
        let lr = rates.lr(t);
        losses.next().map_or(Ok(()), |loss| rates.report_loss(*loss))?;
        Ok(lr)
    };
    (0..steps).map(rate).collect()
}

/// Steps after which a schedule, with those that follow it, does nothing new.
fn length(schedule: &Schedule) -> u64 {
    let before = schedule.then.iter().map(|then| then.after).fold(0, u64::saturating_add);
    let last = schedule.then.last().map_or((&schedule.kind, schedule.warmup_steps), |t| (&t.kind, t.warmup_steps));
    before.saturating_add(length_of(last.0, last.1))
}

fn length_of(kind: &Kind, warmup: u64) -> u64 {
    match kind {
        Kind::Linear(k) => k.total_steps,
        Kind::Polynomial(k) => k.total_steps,
        Kind::Cosine(k) => k.total_steps,
        Kind::Geometric(k) => k.total_steps,
        Kind::OneCycle(k) => k.total_steps,
        Kind::Step(k) => warmup.saturating_add(k.step_size.saturating_mul(5)),
        Kind::MultiStep(k) => warmup.saturating_add(k.milestones.last().map_or(0, |m| m.saturating_add(m / 4))),
        Kind::CosineRestarts(k) => {
            let lengths = std::iter::successors(Some(k.period), |p| Some(p.saturating_mul(k.multiplier)));
            lengths.take(4).fold(warmup, u64::saturating_add)
        }
        _ => warmup.saturating_add(ENDLESS),
    }
}

/// Kinds that a title names.
const NAMED: usize = 4;

fn name(schedule: &Schedule) -> String {
    let own = |kind: &Kind, warmup_steps: u64| match warmup_steps {
        0 => kind.name().to_owned(),
        steps => format!("{} after {steps} steps of warm-up", kind.name()),
    };
    let first = own(&schedule.kind, schedule.warmup_steps);
    let then = schedule.then.iter().map(|then| own(&then.kind, then.warmup_steps));
    let mut names: Vec<_> = std::iter::once(first).chain(then.take(NAMED - 1)).collect();
    let more = schedule.then.len() + 1 - names.len();
    names.extend((more > 0).then(|| format!("{more} more")));
    names.join(", then ")
}

/// About so many of the first `len` numbers, evenly, the first and the last among them.
fn thinned(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let last = len.saturating_sub(1);
    let parts = count.min(len).saturating_sub(1).max(1);
    let mut numbers: Vec<_> = (0..=parts).map(|i| (last as u128 * i as u128 / parts as u128) as usize).collect();
    numbers.dedup();
    numbers.into_iter()
}

#[cfg(test)]
mod tests {
    use super::thinned;

    #[test]
    fn thinning_keeps_both_ends() {
        let all = |len, count| thinned(len, count).collect::<Vec<_>>();
        assert_eq!(all(1, 20), [0]);
        assert_eq!(all(3, 20), [0, 1, 2]);
        assert_eq!(all(101, 5), [0, 25, 50, 75, 100]);
        assert_eq!(all(10_000_001, 20).len(), 20);
        assert_eq!(all(10_000_001, 20).last(), Some(&10_000_000));
    }
}
