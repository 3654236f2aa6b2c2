//! What a step moves and what an optimizer takes, in bytes.

use super::{EMA, Plan};
use crate::storage::Format;

impl Plan {
    /// Bytes that one step moves for all live elements: the update's reads and writes, the scan's
    /// and the measure's reads, and what limits of weights read and, where they bite, write. 28 an
    /// element for AdamW, 32 with a scan.
    pub fn bytes_moved(&self) -> u64 {
        (0..self.tensors.len()).filter(|t| self.is_live(*t)).map(|t| self.tensor_bytes_moved(t)).sum()
    }

    fn tensor_bytes_moved(&self, tensor: usize) -> u64 {
        let variant = self.variant_of(tensor);
        let elements = self.tensors[tensor].elements;
        let storage = &variant.storage;
        let [params, gradient] = [storage.params, storage.gradients].map(|format| elements * format.bytes());
        let scan = if self.gradient.needs_scan() { gradient } else { 0 };
        let master = if storage.master { elements * Format::F32.bytes() } else { 0 };
        let averaged = self.ema.is_some();
        let slots: u64 = variant
            .kept()
            .zip(variant.formats())
            .filter(|(slot, _)| slot.name != EMA)
            .map(|(_, format)| format.bytes_of(elements))
            .sum();
        let measure = if variant.measures() { params + gradient + slots } else { 0 };
        // Gradients once by row and once by column; gradients and parameters by unit.
        let units = if self.gradient.clip_adaptive.is_some() { gradient + params + master } else { 0 };
        let lines = units + if variant.factored { 2 * gradient } else { 0 };
        // Read twice, written once.
        let limit = if self.weights.tensor_limit().is_some() { 3 * (params + master) } else { 0 };
        // The average is read and written once, the weights read.
        let each = averaged && self.ema.as_ref().is_some_and(|ema| ema.interval == 1);
        let ema = if each { params + master + 2 * elements * Format::F32.bytes() } else { 0 };
        gradient + 2 * params + 2 * slots + scan + measure + lines + limit + ema
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
