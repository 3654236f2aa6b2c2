//! Failures made to order. Software drivers never run out of memory, and no driver stalls on request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::context::Gpu;

/// A failure of the device, for a program to test what it does then. A lost device needs none of these:
/// [`wgpu::Device::destroy`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// After that many more allocations of this library on the device, those for writes included, all others find no
    /// memory.
    OutOfMemory {
        /// Allocations that still succeed.
        after: u64,
    },
    /// Readbacks do not arrive.
    StalledReadbacks,
    /// The driver fails while it is polled, where wgpu knows no answer but a panic.
    PanicInPoll,
}

/// What is to fail.
#[derive(Debug)]
pub struct Faults {
    /// Allocations that still succeed.
    allocations: AtomicU64,
    stalled: AtomicBool,
    panics: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        Self { allocations: AtomicU64::new(u64::MAX), stalled: AtomicBool::new(false), panics: AtomicBool::new(false) }
    }
}

impl Faults {
    /// Counts an allocation, and says whether it is to fail.
    pub fn refuses_allocation(&self) -> bool {
        let count = |left: u64| match left {
            u64::MAX => Some(u64::MAX),
            _ => left.checked_sub(1),
        };
        self.allocations.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_err()
    }

    /// What wgpu does where the driver fails.
    pub fn poll(&self) {
        assert!(!self.panics.load(Ordering::Relaxed), "an injected fault");
    }

    pub fn stalls_readbacks(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

impl Gpu {
    /// Makes the device fail in that way until [`Gpu::clear_faults`]: for tests of what a program does then.
    pub fn inject_fault(&self, fault: Fault) {
        match fault {
            Fault::OutOfMemory { after } => self.faults().allocations.store(after, Ordering::Relaxed),
            Fault::StalledReadbacks => self.faults().stalled.store(true, Ordering::Relaxed),
            Fault::PanicInPoll => self.faults().panics.store(true, Ordering::Relaxed),
        }
    }

    /// Ends all injected faults.
    pub fn clear_faults(&self) {
        self.faults().allocations.store(u64::MAX, Ordering::Relaxed);
        self.faults().stalled.store(false, Ordering::Relaxed);
        self.faults().panics.store(false, Ordering::Relaxed);
    }
}
