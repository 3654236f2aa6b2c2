//! Buffers on their way back to the host, without anyone waiting: copied in the caller's encoder, mapped
//! when the caller submits, read when they have arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::context::{Gpu, LostFlag};
use crate::Result;

const FREE: u8 = 0;
const TAKEN: u8 = 1;
const READY: u8 = 2;

/// A fixed number of slots. One is taken from recording until it is read, or until the callback that
/// would map it is dropped with its encoder.
#[derive(Debug)]
pub struct Mailbox<T> {
    lost: LostFlag,
    slots: Vec<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Before the buffer, and so dropped before it: a mapping that ends with its buffer has failed nobody.
    state: Arc<AtomicU8>,
    buffer: wgpu::Buffer,
    note: Option<T>,
}

/// Lives in a mapping's callback: called when the copy has arrived, dropped if it never will.
struct Guard {
    state: Arc<AtomicU8>,
    /// Not the device, which keeps the callback: neither would ever be dropped.
    lost: LostFlag,
}

impl Guard {
    fn mapped(self, result: Result<(), wgpu::BufferAsyncError>) {
        if result.is_ok() {
            self.state.store(READY, Ordering::Release);
        } else if Arc::strong_count(&self.state) > 1 {
            // Only a lost device refuses to map a buffer that it has made.
            self.lost.set("a report could not be mapped");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Not if it is ready: then the reader frees it.
        let _ = self.state.compare_exchange(TAKEN, FREE, Ordering::AcqRel, Ordering::Relaxed);
    }
}

impl<T> Mailbox<T> {
    pub fn new(gpu: &Gpu, label: &str, slots: usize, bytes: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let slot = |_| Ok(Slot { buffer: gpu.buffer(label, bytes, usage)?, state: Arc::default(), note: None });
        Ok(Self { lost: gpu.lost().clone(), slots: (0..slots).map(slot).collect::<Result<_>>()? })
    }

    /// Records copies into a free slot by `copy`, and its mapping. Whether there was one.
    pub fn post(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        note: T,
        copy: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer),
    ) -> bool {
        let Some(slot) = self.slots.iter_mut().find(|s| s.state.load(Ordering::Acquire) == FREE) else {
            return false;
        };
        slot.note = Some(note);
        slot.state.store(TAKEN, Ordering::Release);
        copy(encoder, &slot.buffer);
        let guard = Guard { state: slot.state.clone(), lost: self.lost.clone() };
        encoder.map_buffer_on_submit(&slot.buffer, wgpu::MapMode::Read, .., move |result| guard.mapped(result));
        true
    }

    /// Reads what has arrived.
    pub fn collect<R>(&mut self, mut read: impl FnMut(T, &[u8]) -> R) -> Vec<R> {
        let mut arrived = Vec::new();
        for slot in &mut self.slots {
            if slot.state.load(Ordering::Acquire) != READY {
                continue;
            }
            // Fails only where the device is gone, and then there is nothing to read.
            if let (Ok(view), Some(note)) = (slot.buffer.get_mapped_range(..), slot.note.take()) {
                arrived.push(read(note, &view));
            }
            slot.buffer.unmap();
            slot.state.store(FREE, Ordering::Release);
        }
        arrived
    }
}
