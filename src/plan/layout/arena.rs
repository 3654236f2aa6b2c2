//! Tensors packed into segments.

use std::collections::HashMap;

use super::DeviceLimits;
use crate::error::{Error, Result};
use crate::storage::Format;
use crate::tensor::TensorSpec;

/// Alignment of tensors inside an arena: the largest storage offset alignment that WebGPU allows, so
/// that every slice can be bound by itself.
pub const ARENA_ALIGNMENT: u64 = 256;

/// How a tensor's parameters and its gradient are stored.
pub type Formats = [Format; 2];

/// Where an arena puts its tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArenaLayout {
    /// Segment and first element of each tensor.
    pub places: Vec<(usize, u64)>,
    /// The segments.
    pub segments: Vec<Segment>,
}

/// Two buffers of equally many elements: parameters and gradients lie at the same places in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Elements, padding included.
    pub elements: u64,
    /// How both are stored.
    pub formats: Formats,
}

impl Segment {
    /// Bytes of parameters and of gradients.
    pub fn bytes(&self) -> [u64; 2] {
        self.formats.map(|format| self.elements * format.bytes())
    }
}

impl ArenaLayout {
    /// Packs tensors in order into segments of one storage each that can be bound whole; a tensor longer
    /// than a binding has a segment of its own.
    ///
    /// # Errors
    /// A tensor is longer than the device's longest buffer.
    pub fn new(specs: &[TensorSpec], formats: &[Formats], limits: &DeviceLimits) -> Result<Self> {
        let mut layout = Self::default();
        let whole = limits.binding.min(limits.buffer);
        // The last segment of each storage.
        let mut last = HashMap::new();
        for (spec, formats) in specs.iter().zip(formats) {
            let [narrow, wide] =
                [formats[0].bytes().min(formats[1].bytes()), formats[0].bytes().max(formats[1].bytes())];
            let elements = spec
                .elements()
                .and_then(|n| n.checked_next_multiple_of(ARENA_ALIGNMENT / narrow))
                .filter(|n| n.checked_mul(wide).is_some_and(|bytes| bytes <= limits.buffer))
                .ok_or_else(|| {
                    let problem = format!(
                        "its {:?} elements do not fit the device's longest buffer of {} bytes",
                        spec.shape, limits.buffer
                    );
                    Error::tensor(&spec.name, problem)
                })?;
            // A tensor that fills or passes a binding leaves no room beside it. No segment passes the longest buffer, nor
            // does the tensor: in 128 bits their sum is exact.
            let fits =
                |i: &usize| u128::from(layout.segments[*i].elements) + u128::from(elements) <= (whole / wide).into();
            let room = last.get(formats).copied().filter(fits);
            let segment = room.unwrap_or_else(|| {
                layout.segments.push(Segment { elements: 0, formats: *formats });
                layout.segments.len() - 1
            });
            last.insert(*formats, segment);
            layout.places.push((segment, layout.segments[segment].elements));
            layout.segments[segment].elements += elements;
        }
        Ok(layout)
    }
}
