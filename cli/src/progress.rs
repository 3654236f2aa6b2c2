//! How far a command is, on stderr where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// For commands that take longer than a moment.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Verbosity {
    /// No progress bar, and only the result
    #[arg(long, short)]
    pub quiet: bool,
}

/// A bar with the time that is left. Gone once dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for so many of those things.
    pub fn new(verbosity: Verbosity, count: usize, things: &str) -> Self {
        if verbosity.quiet {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new(count as u64);
        let template = format!("{{bar:30.cyan/dim}} {{pos}}/{{len}} {things}, {{eta}} left  {{wide_msg}}");
        match ProgressStyle::with_template(&template) {
            Ok(style) => Self { bar: bar.with_style(style) },
            Err(_) => Self { bar },
        }
    }

    /// So many were done before.
    pub fn skip(&self, count: usize) {
        self.bar.inc(count as u64);
        self.bar.reset_eta();
    }

    /// One more is done.
    pub fn inc(&self) {
        self.bar.inc(1);
    }

    pub fn message(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
