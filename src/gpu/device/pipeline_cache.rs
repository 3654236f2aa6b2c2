//! The driver's compiled pipelines, kept in a file from run to run.

use std::path::Path;
use std::sync::PoisonError;

use super::context::Gpu;
use crate::error::{Error, Result};

/// Ahead of the driver's bytes: that the file is ours and whole.
const MAGIC: &[u8; 16] = b"wgpu-optim pipes";

impl Gpu {
    /// Lets the driver take pipelines from that file, and new ones be saved to it by
    /// [`Gpu::save_pipeline_cache`]. To be called before optimizers are made. A file that is missing, cut, or
    /// of another driver counts as empty. Whether the device can do so: it needs
    /// `Features::PIPELINE_CACHE`, which [`Gpu::open`] asks for where it is offered.
    ///
    /// # Safety
    /// The driver trusts the bytes. The file must have been written by [`Gpu::save_pipeline_cache`], in a
    /// place where nobody else can write.
    ///
    /// # Errors
    /// The file is there and cannot be read, or the device refuses the cache.
    #[allow(unsafe_code, reason = "wgpu's interface to the driver's cache")]
    pub unsafe fn use_pipeline_cache(&self, path: &Path) -> Result<bool> {
        if !self.device().features().contains(wgpu::Features::PIPELINE_CACHE) {
            return Ok(false);
        }
        let file = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(problem(path, &e)),
        };
        let data = contents(&file);
        self.check_alive()?;
        let cache = self.scoped("the pipeline cache", |device| {
            let descriptor = wgpu::PipelineCacheDescriptor { label: Some("wgpu-optim"), data, fallback: true };
            // SAFETY: by this function's own contract the bytes come from `PipelineCache::get_data`; a file
            // that was cut or flipped does not pass `contents`, and `fallback` takes an empty cache where
            // wgpu's own header names another device.
            unsafe { device.create_pipeline_cache(&descriptor) }
        })?;
        *self.pipelines().cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(cache);
        Ok(true)
    }

    /// Writes what the driver has compiled since [`Gpu::use_pipeline_cache`], beside the file and then in its
    /// place. Whether there was anything to write.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_pipeline_cache(&self, path: &Path) -> Result<bool> {
        let cache = self.pipelines().cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(data) = cache.and_then(|cache| cache.get_data()) else { return Ok(false) };
        let write = || -> std::io::Result<()> {
            let beside = path.with_extension(format!("{}.tmp", std::process::id()));
            std::fs::write(&beside, [MAGIC.as_slice(), &checksum(&data).to_le_bytes(), &data].concat())?;
            std::fs::rename(&beside, path).inspect_err(|_| drop(std::fs::remove_file(&beside)))
        };
        write().map_err(|e| problem(path, &e))?;
        Ok(true)
    }
}

/// The driver's bytes in a file, if it is whole.
fn contents(file: &[u8]) -> Option<&[u8]> {
    let (sum, data) = file.strip_prefix(MAGIC)?.split_first_chunk()?;
    (u64::from_le_bytes(*sum) == checksum(data)).then_some(data)
}

/// FNV-1a: against accidents, not against intent.
fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn problem(path: &Path, reason: &std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_or_flipped_is_not_used() {
        let data = b"what the driver said";
        let whole = [MAGIC.as_slice(), &checksum(data).to_le_bytes(), data].concat();
        assert_eq!(contents(&whole), Some(data.as_slice()));
        for len in 0..whole.len() {
            assert_eq!(contents(&whole[..len]), None, "{len}");
        }
        for byte in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[byte] ^= 4;
            assert_eq!(contents(&flipped), None, "{byte}");
        }
    }
}
