//! What a step moves and what an optimizer takes, in bytes.

use super::{EMA, MASTER, Memory, Pass, Plan};

impl Plan {
    /// Bytes that one step moves for all live elements: the update's reads and writes, the scan's
    /// and the measure's reads, and what limits of weights read and, where they bite, write. 28 an
    /// element for AdamW, 32 with a scan.
    pub fn bytes_moved(&self) -> u64 {
        (0..self.tensors.len()).filter(|t| self.is_live(*t)).map(|t| self.tensor_bytes_moved(t)).sum()
    }

    fn tensor_bytes_moved(&self, tensor: usize) -> u64 {
        let every = |pass: &Pass| *pass != Pass::Average || self.ema.as_ref().is_some_and(|ema| ema.interval == 1);
        let passes = self.passes(false).filter(|pass| every(pass) && self.has_work(*pass, tensor));
        let moved = passes.flat_map(|pass| pass.spec().reads.iter().chain(pass.spec().writes));
        moved.map(|memory| self.bytes_of(*memory, tensor)).sum()
    }

    /// Bytes that a tensor has of that memory.
    fn bytes_of(&self, memory: Memory, tensor: usize) -> u64 {
        let variant = self.variant_of(tensor);
        let (elements, storage) = (self.tensors[tensor].elements, &variant.storage);
        let slots = |of: &dyn Fn(&str) -> bool| -> u64 {
            let slots = variant.kept().zip(variant.formats()).filter(|(slot, _)| of(slot.name));
            slots.map(|(_, format)| format.bytes_of(elements)).sum()
        };
        let params = elements * storage.params.bytes();
        match memory {
            Memory::Gradient => elements * storage.gradients.bytes(),
            Memory::Params => params,
            Memory::Weights => params + slots(&|name| name == MASTER),
            Memory::Slots => slots(&|name| name != EMA),
            Memory::Ema => slots(&|name| name == EMA),
        }
    }

    /// Bytes that all live elements take: parameters, gradients and state.
    pub fn bytes_resident(&self) -> u64 {
        let of = |t: usize| {
            let (variant, elements) = (self.variant_of(t), self.tensors[t].elements);
            let numbers = elements * (variant.storage.params.bytes() + variant.storage.gradients.bytes());
            numbers + variant.formats().map(|format| format.bytes_of(elements)).sum::<u64>()
        };
        (0..self.tensors.len()).filter(|t| self.is_live(*t)).map(of).sum()
    }
}
