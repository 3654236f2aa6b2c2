//! How far a command is, on stderr where that is a terminal, and whether it is to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

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
    ///
    /// # Errors
    /// The user wants the command to stop.
    pub fn inc(&self) -> Result<()> {
        self.bar.inc(1);
        check()
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

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The code that shells give a program ended by Ctrl-C.
const INTERRUPTED_CODE: u8 = 130;

/// Makes the first Ctrl-C end the command at the next [`check`], before it writes anything, and the
/// second end it at once.
pub fn watch_for_interrupts() {
    // It can fail only where there is a handler already.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED_CODE.into());
        }
    });
}

/// Whether the command may go on.
///
/// # Errors
/// The user wants it to stop.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(Error::interrupted(INTERRUPTED_CODE));
    }
    Ok(())
}
