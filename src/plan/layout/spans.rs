//! The dispatches of a step, from where the gradients lie.

use std::ops::Range;

use super::{DeviceLimits, Layout, Piece, window_limit};
use crate::storage::Format;

/// A tensor's gradient this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientPlace {
    /// The buffer, by any numbering of its own.
    pub buffer: usize,
    /// Bytes from the buffer's start; a multiple of 4.
    pub offset: u64,
    /// Whether the rest of its last vector belongs to it too.
    pub padded: bool,
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    /// Its window.
    pub window: usize,
    /// Whether it is addressed by `vec4`.
    pub vector: bool,
    /// Its rows of the block table.
    pub blocks: Range<u32>,
    /// The gradient buffer.
    pub gradient: usize,
    /// The bytes bound of it; the start is aligned for a binding.
    pub gradient_bytes: Range<u64>,
    /// What its gradient in the binding is ahead of a block's `start`, in elements, modulo 2³².
    pub gradient_shift: u32,
}

impl Layout {
    /// The dispatches of a step whose gradients lie at `gradients` (by tensor; `None` has none).
    pub fn spans(&self, gradients: &[Option<GradientPlace>], limits: &DeviceLimits) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (index, window) in self.windows.iter().enumerate() {
            for run in &window.runs {
                let mut open: Option<Span> = None;
                for piece in &run.pieces {
                    let Some(place) = gradients[piece.tensor] else {
                        spans.extend(open.take());
                        continue;
                    };
                    let span = self.span_of(index, run.vector, piece, place, limits);
                    if !open.as_mut().is_some_and(|last| last.absorb(&span, window.gradients, limits)) {
                        spans.extend(open.replace(span));
                    }
                }
                spans.extend(open);
            }
        }
        spans
    }

    fn span_of(&self, window: usize, vector: bool, piece: &Piece, place: GradientPlace, limits: &DeviceLimits) -> Span {
        let format = self.windows[window].gradients;
        let count = piece.elements.end - piece.elements.start;
        let start = place.offset + piece.elements.start * format.bytes();
        let end = start + format.bytes_of(if place.padded { count.next_multiple_of(4) } else { count });
        let base = start / limits.alignment * limits.alignment;
        let first = u64::from(self.blocks[piece.blocks.start as usize].start);
        let aligned = start.is_multiple_of(4 * format.bytes()) && (place.padded || !piece.ragged);
        Span {
            window,
            vector: vector && aligned,
            blocks: piece.blocks.clone(),
            gradient: place.buffer,
            gradient_bytes: base..end,
            gradient_shift: (((start - base) / format.bytes()) as u32).wrapping_sub(first as u32),
        }
    }
}

impl Span {
    /// Takes the span that follows in, if one dispatch can do both.
    fn absorb(&mut self, next: &Span, gradients: Format, limits: &DeviceLimits) -> bool {
        let base_moved = (next.gradient_bytes.start.wrapping_sub(self.gradient_bytes.start) / gradients.bytes()) as u32;
        let fits = next.gradient_bytes.start >= self.gradient_bytes.start
            && next.gradient_bytes.end - self.gradient_bytes.start <= window_limit(limits);
        let joins = self.vector == next.vector
            && self.gradient == next.gradient
            && self.blocks.end == next.blocks.start
            && next.gradient_shift.wrapping_add(base_moved) == self.gradient_shift;
        if fits && joins {
            self.blocks.end = next.blocks.end;
            self.gradient_bytes.end = self.gradient_bytes.end.max(next.gradient_bytes.end);
        }
        fits && joins
    }
}
