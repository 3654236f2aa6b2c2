//! Ctrl-C and the signal to terminate. Outside of a [`Hold`] they end the program at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// What the handlers share with the program.
#[derive(Debug, Default)]
struct Shared {
    /// Whether the next signal ends the program where it is.
    at_once: Arc<AtomicBool>,
    /// The exit code of the signal that came; 0 before.
    code: Arc<AtomicUsize>,
}

static SHARED: OnceLock<Shared> = OnceLock::new();

fn shared() -> &'static Shared {
    SHARED.get_or_init(Shared::default)
}

/// Sets the handlers.
pub fn watch() {
    let Shared { at_once, code } = shared();
    at_once.store(true, Ordering::SeqCst);
    for signal in [SIGINT, SIGTERM] {
        // What shells give a program that a signal ended.
        let own = 128 + signal;
        // In the order in which they are to run. They fail only for signals that nobody can handle.
        let _ = flag::register_conditional_shutdown(signal, own, Arc::clone(at_once));
        let _ = flag::register_usize(signal, Arc::clone(code), own as usize);
        // The second one does not wait.
        let _ = flag::register(signal, Arc::clone(at_once));
    }
}

/// While it lives, the first signal only makes [`check`] fail: something is to be finished first.
#[derive(Debug)]
pub struct Hold(());

impl Hold {
    pub fn new() -> Self {
        shared().at_once.store(false, Ordering::SeqCst);
        Self(())
    }

    /// What was to be finished is.
    ///
    /// # Errors
    /// A signal came meanwhile.
    pub fn end(self) -> Result<()> {
        drop(self);
        check()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        shared().at_once.store(true, Ordering::SeqCst);
    }
}

/// Whether the command may go on.
///
/// # Errors
/// The user wants it to stop.
pub fn check() -> Result<()> {
    match shared().code.load(Ordering::SeqCst) {
        0 => Ok(()),
        code => Err(Error::interrupted(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}
