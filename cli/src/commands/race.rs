use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::{Value, json};
use wgpu_optim::{Gpu, Rule, rules};

use crate::digits::Digits;
use crate::error::{Error, Result};
use crate::output::{self, Outputs};
use crate::progress::{Progress, Verbosity};
use crate::race::digits::{Lap, better, lap};
use crate::race::functions::{self, Function, Path};
use crate::race::rates;
use crate::{backend, plot, style};

/// Race rules against each other on test functions and on the digits
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim race --plot race.svg
  wgpu-optim race --rule adam,nadam,lion --on rosenbrock,saddle --steps 2000
  wgpu-optim race --on digits --epochs 10 --json

Every rule starts from the same place, on the GPU, with the learning rate that ends
lowest for it: of 1e-4 to 1, three in each decade; on the digits of 1e-3 to 0.5. Its
other options have their defaults. All functions are zero at their lowest points.
Rastrigin has many minima: who ends in which is luck.")]
pub struct Args {
    /// The rules, with commas between
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "sgd,momentum,adagrad,rmsprop,adam,nadam,lion"
    )]
    rule: Vec<String>,
    /// What to race on, likewise
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rosenbrock,beale,rastrigin,saddle,digits")]
    on: Vec<Course>,
    /// Steps on each function [default: 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    steps: Option<u32>,
    /// Epochs on the digits [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: Option<u32>,
    /// Draw paths and curves
    #[arg(long, value_name = "RACE.svg")]
    plot: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

const STEPS: u32 = 500;
const EPOCHS: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Course {
    Rosenbrock,
    Beale,
    Rastrigin,
    Saddle,
    Digits,
}

impl Course {
    fn function(self) -> Option<Function> {
        match self {
            Self::Rosenbrock => Some(Function::Rosenbrock),
            Self::Beale => Some(Function::Beale),
            Self::Rastrigin => Some(Function::Rastrigin),
            Self::Saddle => Some(Function::Saddle),
            Self::Digits => None,
        }
    }
}

/// What a rule came to, in the order of the functions raced on.
#[derive(Debug)]
struct Racer {
    rule: Box<dyn Rule>,
    paths: Vec<Path>,
    lap: Option<Lap>,
}

pub fn run(args: &Args) -> Result<()> {
    let rules = args.rule.iter().map(|name| Ok(rules::by_name(name)?)).collect::<Result<Vec<_>>>()?;
    let outputs = Outputs::new(args.plot.as_deref())?;
    plot::check_name(args.plot.as_deref())?;
    let functions: Vec<_> =
        Function::ALL.into_iter().filter(|f| args.on.iter().any(|c| c.function() == Some(*f))).collect();
    if args.steps.is_some() && functions.is_empty() {
        return Err(Error::input("--steps: there are none on the digits alone; they take --epochs"));
    }
    if args.epochs.is_some() && !args.on.contains(&Course::Digits) {
        return Err(Error::input("--epochs: only the digits have them, and --on leaves them out"));
    }
    let gpu = Gpu::headless()?;
    let racers = race(args, &gpu, rules, &functions)?;

    let names: Vec<_> = racers.iter().map(|racer| racer.rule.name()).collect();
    if args.plot.is_some() {
        let mut charts = Vec::new();
        for (place, function) in functions.iter().enumerate() {
            let paths: Vec<_> = racers.iter().map(|racer| &racer.paths[place]).collect();
            charts.extend(plot::race::function(*function, &names, &paths)?);
        }
        let laps: Vec<_> = racers.iter().filter_map(|racer| racer.lap.as_ref()).collect();
        if !laps.is_empty() {
            charts.extend(plot::race::digits(&names, &laps));
        }
        outputs.write(&[plot::grid(&charts, 2, (560, 480))?.into_bytes()])?;
    }
    if args.json {
        return output::print_json(&racers.iter().flat_map(|racer| to_json(racer, &functions)).collect());
    }
    let place = backend::place(Some(&gpu));
    output::print(&format!("{}\n{}", style::heading(&place), table(&racers, &functions)))
}

fn race(args: &Args, gpu: &Gpu, rules: Vec<Box<dyn Rule>>, functions: &[Function]) -> Result<Vec<Racer>> {
    let digits = args.on.contains(&Course::Digits).then(Digits::load);
    let laps = if digits.is_some() { rates(-3, 0) } else { Vec::new() };
    // No rule needs a rate of 1 there.
    let laps = &laps[..laps.len().saturating_sub(1)];
    let progress = Progress::new(args.verbosity, rules.len() * (1 + laps.len()), "runs");
    let mut racers = Vec::new();
    for rule in rules {
        progress.message(rule.name());
        let paths = match functions {
            [] => Vec::new(),
            some => functions::run(gpu, rule.as_ref(), some, &rates(-4, 0), args.steps.unwrap_or(STEPS) as usize)?,
        };
        progress.inc();
        let mut best = None;
        if let Some(digits) = &digits {
            for lr in laps {
                progress.message(format!("{} on the digits, lr {lr}", rule.name()));
                best = better(best, lap(gpu, digits, rule.as_ref(), *lr, args.epochs.unwrap_or(EPOCHS) as usize)?);
                progress.inc();
            }
        }
        if paths.len() != functions.len() {
            return Err(Error::failed(format!("{}: the device sent no paths", rule.name())));
        }
        racers.push(Racer { rule, paths, lap: best });
    }
    Ok(racers)
}

/// A value this low counts as the minimum.
const ARRIVED: f64 = 1e-3;

fn table(racers: &[Racer], functions: &[Function]) -> String {
    let width = racers.iter().map(|racer| racer.rule.name().len()).max().unwrap_or(0).max("rule".len());
    let mut text = String::new();
    for (place, function) in functions.iter().enumerate() {
        let head = format!("{:width$}  {:>8}  {:>10}  {:>13}", "rule", "lr", "value", "steps to 1e-3");
        text += &format!("\n{}\n{}\n", style::heading(function.name()), style::faint(&head));
        for racer in racers {
            let path = &racer.paths[place];
            let steps = path.steps_to(ARRIVED).map_or_else(|| "-".to_owned(), |steps| steps.to_string());
            text += &format!("{:width$}  {:>8}  {:>10.2e}  {steps:>13}\n", racer.rule.name(), path.lr, path.end());
        }
    }
    if racers.iter().all(|racer| racer.lap.is_none()) {
        return text;
    }
    let head = format!("{:width$}  {:>8}  {:>10}  {:>13}", "rule", "lr", "loss", "held back");
    text += &format!("\n{}\n{}\n", style::heading("digits"), style::faint(&head));
    for (rule, lap) in racers.iter().filter_map(|racer| Some((racer.rule.name(), racer.lap.as_ref()?))) {
        let accuracy = lap.held_back().map_or(f64::NAN, |score| 100.0 * score.accuracy());
        text += &format!("{rule:width$}  {:>8}  {:>10.4}  {accuracy:>11.2} %\n", lap.lr, lap.loss());
    }
    text
}

fn to_json(racer: &Racer, functions: &[Function]) -> Vec<Value> {
    let rule = racer.rule.name();
    let mut rows: Vec<_> = functions
        .iter()
        .zip(&racer.paths)
        .map(|(function, path)| {
            json!({
                "rule": rule,
                "on": function.name().to_lowercase(),
                "lr": path.lr,
                "value": path.end(),
                "steps_to_1e-3": path.steps_to(ARRIVED),
                "steps": path.points.len() - 1,
            })
        })
        .collect();
    rows.extend(racer.lap.as_ref().map(|lap| {
        json!({
            "rule": rule,
            "on": "digits",
            "lr": lap.lr,
            "value": lap.loss(),
            "held_back_accuracy": lap.held_back().map(|score| score.accuracy()),
            "epochs": lap.history.len(),
        })
    }));
    rows
}
