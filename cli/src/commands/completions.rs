use clap::CommandFactory;
use clap_complete::Shell;

use crate::error::Result;
use crate::output;

/// Print a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim completions bash > ~/.local/share/bash-completion/completions/wgpu-optim
  wgpu-optim completions zsh > ~/.zfunc/_wgpu-optim
  wgpu-optim completions fish > ~/.config/fish/completions/wgpu-optim.fish")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "wgpu-optim", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
