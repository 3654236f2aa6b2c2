//! Checkpoints as files, each whole or not there at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Checkpoint;
use crate::step::Plan;
use crate::{Error, Result};

/// How the name of a file that is being written ends.
const PARTIAL: &str = ".partial";

/// A partial file that old was left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

impl Checkpoint {
    /// Writes the checkpoint to a file: beside it first, down to the disk, then renamed. Whatever happens
    /// meanwhile, the path leads to a whole file: the old one or the new one.
    ///
    /// # Errors
    /// As [`Checkpoint::to_safetensors`]; or the file cannot be written, and the old one is as it was.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write(path, &self.to_safetensors()?).map_err(|e| problem(path, &e))
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

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Behind links, so that they stay links.
    let target = if path.exists() { path.canonicalize()? } else { path.to_owned() };
    let name = target.file_name().ok_or_else(|| io::Error::other("names no file"))?.to_string_lossy().into_owned();
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    remove_abandoned(folder, &name);
    let (mut file, partial) = create_partial(folder, &name)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&partial, &target));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    written?;
    // The new name too must be on the disk. Some file systems cannot sync a folder, and then need not.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// A new file beside the target, of a name of its own: two writers never share one.
fn create_partial(folder: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{name}.{}-{number}{PARTIAL}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (file, path)),
        }
    }
}

/// Removes what killed processes left of this target. Failures are left for a later save to meet.
fn remove_abandoned(folder: &Path, name: &str) {
    let start = format!(".{name}.");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.file_name().to_str().is_some_and(|n| n.starts_with(&start) && n.ends_with(PARTIAL));
        let age = || entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if own && age().is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
