//! Checkpoints as files, each whole or not there at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::state::files;

impl Checkpoint {
    /// Writes the checkpoint to a file: beside it first, down to the disk, then renamed. Whatever happens
    /// meanwhile, the path leads to a whole file: the old one or the new one. Links are followed, and a file that is
    /// there keeps its permissions.
    ///
    /// # Errors
    /// As [`Checkpoint::to_safetensors`]; or the file cannot be written, and the old one is as it was.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        files::replace(path, &self.to_safetensors()?).map_err(|e| problem(path, &e))
    }

    /// Reads a file for the optimizer of that plan. Takes as much memory as the file is long, and four bytes for
    /// every number in it.
    ///
    /// # Errors
    /// It cannot be read; or as [`Checkpoint::from_safetensors`].
    pub fn load(path: impl AsRef<Path>, plan: &Plan) -> Result<Self> {
        let path = path.as_ref();
        Self::from_safetensors(&read(path).map_err(|e| problem(path, &e))?, plan)
    }
}

fn problem(path: &Path, reason: &io::Error) -> Error {
    Error::File { path: path.display().to_string(), reason: reason.to_string() }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(metadata.len()).map_err(io::Error::other)?;
    bytes.try_reserve_exact(size).map_err(io::Error::other)?;
    file.take(metadata.len()).read_to_end(&mut bytes)?;
    Ok(bytes)
}
