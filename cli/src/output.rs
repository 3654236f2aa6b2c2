//! What a command prints and the files it writes.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use wgpu_optim::files::Target;

use crate::error::{Error, Result};
use crate::interrupt::Hold;

/// Prints a result to stdout, with colours only on a terminal. A reader that has seen enough, such as
/// `head`, is no error.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::failed(format!("stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Prints JSON, indented.
pub fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// One line to stderr. Nobody is left to tell where stderr cannot be written to.
pub fn notice(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Files that a command will write, each whole or not at all: to temporary files beside the targets, renamed once all
/// are written.
#[derive(Debug, Default)]
pub struct Outputs {
    targets: Vec<Target>,
}

impl Outputs {
    /// Checks before the work that the files can be written after it, as far as that can be known.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let hold = Hold::new();
        let mut targets: Vec<Target> = Vec::new();
        for path in paths {
            let target = Target::new(path).map_err(|e| Error::file(path, e))?;
            if targets.contains(&target) {
                return Err(Error::file(path, "is named for two outputs"));
            }
            // Made beside the target and taken away again.
            target.write(&[]).map(drop).map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
            targets.push(target);
        }
        hold.end()?;
        Ok(Self { targets })
    }

    /// The same, of a command that reads those files: none of them is written over.
    pub fn sparing<'a>(self, inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self> {
        for path in inputs {
            if Target::new(path).is_ok_and(|target| self.targets.contains(&target)) {
                return Err(Error::file(path, "is read, and named for an output too"));
            }
        }
        Ok(self)
    }

    /// Writes the files' contents, in the order of the paths.
    pub fn write(self, contents: &[Vec<u8>]) -> Result<()> {
        let fail = |target: &Target, e| Error::failed(format!("{}: {e}", target.path().display()));
        // Ended now, it would leave files that are nobody's.
        let hold = Hold::new();
        let mut drafts = Vec::new();
        for (target, bytes) in self.targets.iter().zip(contents) {
            drafts.push((target, target.write(bytes).map_err(|e| fail(target, e))?));
        }
        for (target, draft) in drafts {
            draft.publish().map_err(|e| fail(target, e))?;
        }
        hold.end()
    }
}
