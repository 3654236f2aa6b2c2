//! The program `wgpu-optim`: what the library does, from the command line.

mod backend;
mod commands;
mod digits;
mod engine;
mod error;
mod health;
mod input;
mod interrupt;
mod losses;
mod network;
mod output;
mod plot;
mod progress;
mod race;
mod readback;
mod report;
mod resuming;
mod saving;
mod storage;
mod style;
mod tensor_file;
mod timing;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use commands::{bench, completions, devices, kernel, replay, rules, schedule, train, verify};

/// Optimizers on the GPU: train, replay, verify and measure
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Examples:
  wgpu-optim devices                             what there is to compute on
  wgpu-optim train --plot loss.svg               a first training
  wgpu-optim race --plot race.svg                rules against each other
  wgpu-optim rules                               what a run configuration may say
  wgpu-optim verify --selftest                   whether this machine's GPU computes right
  wgpu-optim help replay                         more on a command

Exit codes: 0 done, 1 a run went wrong or a check failed, 2 bad usage or input,
130 ended by Ctrl-C, 143 by SIGTERM. Files are written whole or not at all.";

#[derive(Debug, Subcommand)]
enum Command {
    Devices(devices::Args),
    Train(train::Args),
    Replay(replay::Args),
    Rules(rules::Args),
    Kernel(kernel::Args),
    Schedule(schedule::Args),
    Verify(verify::Args),
    Race(commands::race::Args),
    Bench(bench::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    interrupt::watch();
    let mut parser = Cli::command();
    let matches = parser.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match cli.command {
        Command::Devices(args) => devices::run(&args),
        Command::Train(args) => train::run(&args, report::options(&parser, &matches)),
        Command::Replay(args) => replay::run(&args),
        Command::Rules(args) => rules::run(&args),
        Command::Kernel(args) => kernel::run(&args),
        Command::Schedule(args) => schedule::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Race(args) => commands::race::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::notice(&format!("{} {error}", style::error("error:")));
            error.exit_code()
        }
    }
}
