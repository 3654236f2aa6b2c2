//! Buffers on their way back to the host, without anyone waiting: copied in the caller's encoder, mapped
//! when the caller submits, read when they have arrived.

use super::arrival::{Arrival, Shared};
use crate::error::Result;
use crate::gpu::device::context::Gpu;

/// A fixed number of slots. One is taken from recording until it is read, or until the callback that
/// would map it is dropped with its encoder.
#[derive(Debug)]
pub struct Mailbox<T> {
    gpu: Gpu,
    slots: Vec<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Before the buffer, and so dropped before it.
    arrival: Shared,
    buffer: wgpu::Buffer,
    note: Option<T>,
}

impl<T> Slot<T> {
    fn is_free(&self) -> bool {
        !matches!(self.arrival.get(), Arrival::Pending | Arrival::Mapped)
    }
}

impl<T> Mailbox<T> {
    pub fn new(gpu: &Gpu, label: &str, slots: usize, bytes: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let slot = |_| Ok(Slot { buffer: gpu.buffer(label, bytes, usage)?, arrival: Shared::default(), note: None });
        Ok(Self { gpu: gpu.clone(), slots: (0..slots).map(slot).collect::<Result<_>>()? })
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_free()).count()
    }

    /// Records copies into a free slot by `copy`, and its mapping. Whether there was one.
    pub fn post(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        note: T,
        copy: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer),
    ) -> bool {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_free()) else {
            return false;
        };
        slot.note = Some(note);
        copy(encoder, &slot.buffer);
        slot.arrival.ask(encoder, &slot.buffer, self.gpu.lost().flag(), "a report could not be mapped");
        true
    }

    /// Reads what has arrived.
    pub fn collect<R>(&mut self, mut read: impl FnMut(T, &[u8]) -> R) -> Vec<R> {
        let mut arrived = Vec::new();
        for slot in &mut self.slots {
            if slot.arrival.get() != Arrival::Mapped {
                continue;
            }
            // Fails only where the device is gone, and then there is nothing to read.
            if let (Ok(view), Some(note)) = (slot.buffer.get_mapped_range(..), slot.note.take()) {
                arrived.push(read(note, &view));
            }
            // Scoped: the device may be lost since, and the caller's handler is not to hear of it.
            let _ = self.gpu.scoped("a report", |_| slot.buffer.unmap());
            slot.arrival.clear();
        }
        arrived
    }
}
