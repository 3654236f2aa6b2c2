//! What becomes of a buffer's mapping that an encoder asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::gpu::device::lost::LostFlag;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Arrival {
    /// Nothing is asked for.
    Idle,
    Pending,
    Mapped,
    /// The device refused.
    Refused,
    /// The encoder was dropped.
    Dropped,
}

/// An arrival that a callback on any thread sets. Whoever waits for it must drop this before the buffer: a mapping
/// that ends with its buffer has failed nobody.
#[derive(Debug)]
pub struct Shared(Arc<AtomicU8>);

impl Default for Shared {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(Arrival::Idle as u8)))
    }
}

impl Shared {
    pub fn get(&self) -> Arrival {
        match self.0.load(Ordering::Acquire) {
            0 => Arrival::Idle,
            1 => Arrival::Pending,
            2 => Arrival::Mapped,
            3 => Arrival::Refused,
            _ => Arrival::Dropped,
        }
    }

    /// What has arrived is read.
    pub fn clear(&self) {
        self.0.store(Arrival::Idle as u8, Ordering::Release);
    }

    /// Asks the encoder to map the whole buffer on submission. Where that fails, the device is lost, and `problem` says
    /// what of.
    pub fn ask(&self, encoder: &wgpu::CommandEncoder, buffer: &wgpu::Buffer, lost: &LostFlag, problem: &'static str) {
        self.0.store(Arrival::Pending as u8, Ordering::Release);
        let mut guard = Guard { arrival: self.0.clone(), lost: lost.clone(), problem, was_called: false };
        encoder.map_buffer_on_submit(buffer, wgpu::MapMode::Read, .., move |result| guard.call(result.is_ok()));
    }
}

/// Lives in a mapping's callback: called when the copy has arrived, dropped if it never will.
struct Guard {
    arrival: Arc<AtomicU8>,
    /// Not the device, which keeps the callback: neither would ever be dropped.
    lost: LostFlag,
    problem: &'static str,
    /// After that its arrival may be another's: the buffer is read, and mapped anew, before this is dropped.
    was_called: bool,
}

impl Guard {
    fn call(&mut self, ok: bool) {
        self.was_called = true;
        // Only a lost device refuses to map a buffer that it has made, and that someone still waits for.
        if !ok && Arc::strong_count(&self.arrival) > 1 {
            self.lost.set(self.problem);
        }
        self.end(if ok { Arrival::Mapped } else { Arrival::Refused });
    }

    fn end(&self, arrival: Arrival) {
        self.arrival.store(arrival as u8, Ordering::Release);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.was_called {
            self.end(Arrival::Dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The device's thread may still hold the guard when the reader's has taken the buffer for something else.
    #[test]
    fn a_guard_that_was_called_has_no_say_in_what_comes_after() {
        let shared = Shared::default();
        let guard = || Guard { arrival: shared.0.clone(), lost: LostFlag::default(), problem: "", was_called: false };
        let mut first = guard();
        first.call(true);
        assert_eq!(shared.get(), Arrival::Mapped);
        shared.clear();
        shared.0.store(Arrival::Pending as u8, Ordering::Release);
        drop(first);
        assert_eq!(shared.get(), Arrival::Pending);
        drop(guard());
        assert_eq!(shared.get(), Arrival::Dropped);
    }
}
