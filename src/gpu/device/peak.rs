//! The most memory that a device has had allocated. Looked at from beside, a short peak is missed: it is looked at where
//! the engine has just allocated, since it rises nowhere else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::context::Gpu;

#[derive(Debug, Default)]
pub struct Peak {
    watched: AtomicBool,
    most: AtomicU64,
}

impl Gpu {
    /// Starts to watch how much memory is allocated on the device, from what is there now. Each allocation of the library's
    /// asks the device for a list of all from then on, which takes its time: for tests and for measuring.
    pub fn watch_memory(&self) {
        let peak = self.peak();
        peak.most.store(self.allocated().unwrap_or(0), Ordering::Relaxed);
        peak.watched.store(true, Ordering::Relaxed);
    }

    /// The most bytes that were allocated on the device after any allocation of the library's since
    /// [`Gpu::watch_memory`], those of the caller's own buffers included. None where the memory is not watched, or the
    /// backend does not tell.
    pub fn most_memory(&self) -> Option<u64> {
        let peak = self.peak();
        (peak.watched.load(Ordering::Relaxed) && self.allocated().is_some()).then(|| peak.most.load(Ordering::Relaxed))
    }

    /// Something has been allocated.
    pub(super) fn look_at_memory(&self) {
        if self.peak().watched.load(Ordering::Relaxed) {
            self.peak().most.fetch_max(self.allocated().unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn allocated(&self) -> Option<u64> {
        self.device().generate_allocator_report().map(|report| report.total_allocated_bytes)
    }
}
