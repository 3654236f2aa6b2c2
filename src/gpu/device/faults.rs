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
    /// After that many more parts of loads and changes of tensors that are written part by part, the device does not
    /// finish one in time.
    InterruptedUploads {
        /// Parts that the device still finishes.
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
    /// Parts of uploads that are still finished.
    uploads: AtomicU64,
    stalled: AtomicBool,
    panics: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            allocations: AtomicU64::new(u64::MAX),
            uploads: AtomicU64::new(u64::MAX),
            stalled: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        }
    }
}

impl Faults {
    /// Counts an allocation, and says whether it is to fail.
    pub fn refuses_allocation(&self) -> bool {
        used_up(&self.allocations)
    }

    /// Counts a part of an upload, and says whether the device is not to finish it.
    pub fn interrupts_upload(&self) -> bool {
        used_up(&self.uploads)
    }

    /// What wgpu does where the driver fails.
    pub fn poll(&self) {
        assert!(!self.panics.load(Ordering::Relaxed), "an injected fault");
    }

    pub fn stalls_readbacks(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

/// Counts down, where there is a number to count down from.
fn used_up(count: &AtomicU64) -> bool {
    let next = |left: u64| match left {
        u64::MAX => Some(u64::MAX),
        _ => left.checked_sub(1),
    };
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_err()
}

impl Gpu {
    /// Makes the device fail in that way until [`Gpu::clear_faults`]: for tests of what a program does then.
    pub fn inject_fault(&self, fault: Fault) {
        match fault {
            Fault::OutOfMemory { after } => self.faults().allocations.store(after, Ordering::Relaxed),
            Fault::InterruptedUploads { after } => self.faults().uploads.store(after, Ordering::Relaxed),
            Fault::StalledReadbacks => self.faults().stalled.store(true, Ordering::Relaxed),
            Fault::PanicInPoll => self.faults().panics.store(true, Ordering::Relaxed),
        }
    }

    /// Ends all injected faults.
    pub fn clear_faults(&self) {
        self.faults().allocations.store(u64::MAX, Ordering::Relaxed);
        self.faults().uploads.store(u64::MAX, Ordering::Relaxed);
        self.faults().stalled.store(false, Ordering::Relaxed);
        self.faults().panics.store(false, Ordering::Relaxed);
    }
}
