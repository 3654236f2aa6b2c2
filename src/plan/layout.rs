//! Where tensors lie: blocks of elements, windows that fit a binding, spans that fit a dispatch.
//! Pure arithmetic, no device.
//!
//! - A **block** is up to [`BLOCK`] elements of one tensor; one workgroup updates it.
//! - A **window** is a stretch of one parameter buffer, within the binding limit, with its own state
//!   buffer. A tensor longer than the limit has several; small tensors in one buffer share one.
//! - A **run** is the blocks of a window that the same kernel can address (by `vec4` or by words).
//! - A **span** is the part of a run whose gradients lie at one constant distance in one buffer.
//! - A **dispatch** serves one span, a list of those in one pair of buffers, or a bundle of them where the device has arrays of
//!   bindings.

mod arena;
mod bundles;
mod spans;

use std::ops::Range;
use std::sync::Arc;

pub use arena::{ARENA_ALIGNMENT, ArenaLayout, Formats, Segment};
pub use bundles::Dispatch;
pub use spans::{GradientPlace, Span};

use crate::error::{Error, Result};
use crate::storage::{Format, StateFormat};

/// Elements of a block. Divisible by the 256 of blockwise quantised state.
pub const BLOCK: u64 = 4096;

/// Longest binding used even where the device allows more.
const WINDOW_CAP: u64 = 1 << 30;

/// Tensors of so few blocks are addressed by words as a whole when they end within a `vec4`: one
/// dispatch instead of two.
const SMALL_BLOCKS: u64 = 4;

/// What arrays of bindings take: there are such arrays, of buffers that can be written, and what a
/// workgroup found in a table can be an index.
pub const BUNDLE_FEATURES: wgpu::Features = wgpu::Features::BUFFER_BINDING_ARRAY
    .union(wgpu::Features::STORAGE_RESOURCE_BINDING_ARRAY)
    .union(wgpu::Features::SAMPLED_TEXTURE_AND_STORAGE_BUFFER_ARRAY_NON_UNIFORM_INDEXING);

/// The arrays of a dispatch: parameters, gradients, state.
pub const BUNDLE_ARRAYS: u32 = 3;

/// Most spans of a bundle. wgpu looks at every binding of an array at each dispatch; and what a dispatch
/// costs is small beside a thousand spans.
const BUNDLE_CAP: u32 = 1024;

/// With more blocks than that, their parts of a sum are added up by groups first. Fewer are no way to go for one
/// workgroup: 16 trips to memory with 256 threads.
const MOST_PARTS: u64 = 4096;

/// Blocks of a group.
const GROUP: u32 = 256;

const WORD: u64 = 4;
const VECTOR: u64 = 16;

/// Limits of a device that shape a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Longest storage binding, bytes.
    pub binding: u64,
    /// Longest buffer, bytes.
    pub buffer: u64,
    /// Alignment of a storage binding's offset, bytes.
    pub alignment: u64,
    /// Workgroups in one dimension of a dispatch.
    pub workgroups: u32,
    /// Spans that one dispatch can serve through arrays of bindings; 0 where the device has none.
    pub bundle: u32,
}

impl DeviceLimits {
    /// The limits of a device with those features.
    pub fn of(limits: &wgpu::Limits, features: wgpu::Features) -> Self {
        let bundle = if features.contains(BUNDLE_FEATURES) {
            (limits.max_binding_array_elements_per_shader_stage / BUNDLE_ARRAYS).min(BUNDLE_CAP)
        } else {
            0
        };
        Self {
            binding: limits.max_storage_buffer_binding_size,
            buffer: limits.max_buffer_size,
            alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(VECTOR),
            workgroups: limits.max_compute_workgroups_per_dimension,
            bundle,
        }
    }

    /// How to dispatch `count` workgroups: in one dimension while that suffices, else in two.
    pub fn dispatch(&self, count: u32) -> [u32; 2] {
        if count <= self.workgroups {
            return [count, 1];
        }
        let rows = count.div_ceil(self.workgroups);
        [count.div_ceil(rows), rows]
    }
}

/// Where a live tensor's parameters lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The tensor, by its place in the plan.
    pub tensor: usize,
    /// Its elements.
    pub elements: u64,
    /// The code that updates it; tensors of different code share no window.
    pub variant: usize,
    /// How its parameters are stored; a matter of the code, as all storage.
    pub params: Format,
    /// How its gradient is stored.
    pub gradients: Format,
    /// How its slots are stored.
    pub slots: Arc<[StateFormat]>,
    /// The parameter buffer, by any numbering.
    pub buffer: usize,
    /// Bytes from the buffer's start; a multiple of 4.
    pub offset: u64,
    /// Whether the rest of its last vector belongs to it too.
    pub padded: bool,
}

/// Up to [`BLOCK`] elements of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorBlock {
    /// The tensor, by its place in the plan.
    pub tensor: usize,
    /// Which of the tensor's blocks it is.
    pub number: u64,
    /// Its elements.
    pub len: u32,
    /// Its first parameter, in elements from the window's base.
    pub start: u32,
    /// Its state, in words from the start of the window's state: slot after slot.
    pub state: u32,
    /// Its place among all blocks in tensor order, where its part of a norm goes.
    pub partial: u32,
}

/// A stretch of one parameter buffer and the state of the tensors in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The code that updates it.
    pub variant: usize,
    /// The parameter buffer.
    pub buffer: usize,
    /// Its bytes in the buffer; the start is aligned for a binding.
    pub bytes: Range<u64>,
    /// How its parameters are stored.
    pub params: Format,
    /// How its gradients are stored.
    pub gradients: Format,
    /// How its slots are stored.
    pub slots: Arc<[StateFormat]>,
    /// Words of state.
    pub state: u64,
    /// The runs, vectors before words.
    pub runs: Vec<Run>,
}

/// Blocks of a window that one kernel addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Whether by `vec4` (or by words).
    pub vector: bool,
    /// The tensors' parts, in the order of the block table.
    pub pieces: Vec<Piece>,
}

/// The part of one tensor in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The tensor, by its place in the plan.
    pub tensor: usize,
    /// Its rows of the block table.
    pub blocks: Range<u32>,
    /// Its elements.
    pub elements: Range<u64>,
    /// Whether it ends within a `vec4`.
    pub ragged: bool,
}

/// A slot's part of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePart {
    /// The tensor, by its place in the plan.
    pub tensor: usize,
    /// Which of its kept slots.
    pub slot: usize,
    /// How the slot is stored.
    pub format: StateFormat,
    /// The tensor's elements.
    pub elements: Range<usize>,
    /// Their words from the start of the window's state; for q8 the codes, then the scales.
    pub words: Range<usize>,
}

/// All blocks and windows of an optimizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The block table, in the order of dispatch.
    pub blocks: Vec<TensorBlock>,
    /// The windows.
    pub windows: Vec<Window>,
    /// Where there are many blocks: the first of each group in tensor order, and how many it has. Groups are of one tensor,
    /// so that they depend on nothing but the tensors' lengths.
    pub groups: Vec<[u32; 2]>,
    /// By tensor: its first block in tensor order, and how many it has.
    partials: Vec<[u32; 2]>,
    /// By tensor: its first part of a sum, of a group or of a block, and how many it has.
    parts: Vec<[u32; 2]>,
    /// Tensor, window, run and piece of every piece, in the order of tensors and their elements.
    pieces: Vec<[usize; 4]>,
}

impl Layout {
    /// Lays tensors out in the order of their addresses.
    ///
    /// # Errors
    /// The tables of blocks would pass the 2³² rows that a kernel can index.
    pub fn new(placements: &[Placement], limits: &DeviceLimits) -> Result<Self> {
        let mut order: Vec<&Placement> = placements.iter().filter(|p| p.elements > 0).collect();
        order.sort_by_key(|p| (p.variant, p.buffer, p.offset));
        let total: u64 = placements.iter().map(|p| p.elements.div_ceil(BLOCK)).fold(0, u64::saturating_add);
        if total > u64::from(u32::MAX) {
            let problem = format!("{total} blocks of {BLOCK} elements are more than 2^32");
            return Err(Error::Limit { what: "tensors", problem });
        }

        let mut partials = vec![[0; 2]; placements.iter().map(|p| p.tensor + 1).max().unwrap_or(0)];
        let mut next = 0u32;
        let mut by_tensor: Vec<&Placement> = placements.iter().collect();
        by_tensor.sort_by_key(|p| p.tensor);
        for p in by_tensor {
            let count = p.elements.div_ceil(BLOCK) as u32;
            partials[p.tensor] = [next, count];
            next += count;
        }

        let (groups, parts) = grouped(&partials);
        let mut layout = Self { groups, parts, partials, ..Self::default() };
        let mut open: Option<OpenWindow> = None;
        for p in order {
            let bytes_of = |n: u64| n * p.params.bytes();
            let vector = p.offset.is_multiple_of(bytes_of(4));
            let ragged = p.elements % 4 != 0 && !p.padded;
            let small = p.elements.div_ceil(BLOCK) <= SMALL_BLOCKS;
            for number in 0..p.elements.div_ceil(BLOCK) {
                let first = number * BLOCK;
                let len = BLOCK.min(p.elements - first);
                let vector = vector && !(ragged && (small || len < BLOCK));
                let last = first + if p.padded { len.next_multiple_of(4) } else { len };
                let bytes = p.offset + bytes_of(first)..p.offset + bytes_of(last).next_multiple_of(WORD);
                let state: u64 = p.slots.iter().map(|slot| u64::from(slot.words(len as u32))).sum();
                let window = match open.take() {
                    Some(window) if window.takes(p, &bytes, state, limits) => open.insert(window),
                    full => {
                        full.into_iter().for_each(|w| w.close(&mut layout));
                        open.insert(OpenWindow::at(p, bytes.start, limits))
                    }
                };
                let block = TensorBlock {
                    tensor: p.tensor,
                    number,
                    len: len as u32,
                    // Windows are far below 2^32 elements.
                    start: ((bytes.start - window.bytes.start) / p.params.bytes()) as u32,
                    state: window.state as u32,
                    partial: layout.partials[p.tensor][0] + number as u32,
                };
                window.bytes.end = window.bytes.end.max(bytes.end);
                window.state += state;
                if vector { &mut window.vectors } else { &mut window.words }.push(block);
            }
        }
        open.into_iter().for_each(|w| w.close(&mut layout));
        layout.pieces = layout.pieces_in_order();
        Ok(layout)
    }

    /// Calls `part` for each slot of each block of a window.
    pub fn for_each_state(&self, window: usize, mut part: impl FnMut(StatePart)) {
        let window = &self.windows[window];
        for piece in window.runs.iter().flat_map(|run| &run.pieces) {
            for row in piece.blocks.clone() {
                let block = &self.blocks[row as usize];
                let first = (block.number * BLOCK) as usize;
                let mut word = block.state as usize;
                for (slot, format) in window.slots.iter().enumerate() {
                    let words = word..word + format.words(block.len) as usize;
                    word = words.end;
                    let elements = first..first + block.len as usize;
                    part(StatePart { tensor: block.tensor, slot, format: *format, elements, words });
                }
            }
        }
    }

    /// Where a tensor lies, from its first element on: the window, and the piece in it.
    pub fn pieces_of(&self, tensor: usize) -> Vec<(usize, &Piece)> {
        let first = self.pieces.partition_point(|[t, ..]| *t < tensor);
        let own = self.pieces[first..].iter().take_while(|[t, ..]| *t == tensor);
        own.map(|[_, window, run, piece]| (*window, &self.windows[*window].runs[*run].pieces[*piece])).collect()
    }

    fn pieces_in_order(&self) -> Vec<[usize; 4]> {
        let mut pieces = Vec::new();
        for (w, window) in self.windows.iter().enumerate() {
            for (r, run) in window.runs.iter().enumerate() {
                pieces.extend(run.pieces.iter().enumerate().map(|(p, piece)| {
                    let place = [piece.tensor, w, r, p];
                    (piece.elements.start, place)
                }));
            }
        }
        pieces.sort_unstable_by_key(|(first, place)| (place[0], *first));
        pieces.into_iter().map(|(_, place)| place).collect()
    }

    /// A tensor's parts of a sum: the first and how many. They are those of its groups where there are groups, else its
    /// blocks'.
    pub fn parts_of(&self, tensor: usize) -> [u32; 2] {
        self.parts.get(tensor).copied().unwrap_or_default()
    }

    /// The parts of all tensors.
    pub fn parts(&self) -> usize {
        if self.groups.is_empty() { self.blocks.len() } else { self.groups.len() }
    }

    /// The parts of the tensor that has most.
    pub fn most_parts(&self) -> usize {
        self.parts.iter().map(|[_, count]| *count as usize).max().unwrap_or(0)
    }

    /// Bytes of state that the layout asks for.
    pub fn state_bytes(&self) -> u64 {
        self.windows.iter().map(|w| w.state * WORD).sum()
    }
}

/// Groups of neighbouring blocks where there are many blocks, and each tensor's parts: its first group, and how many it
/// has. Of few blocks there are no groups, and each is a part.
fn grouped(blocks: &[[u32; 2]]) -> (Vec<[u32; 2]>, Vec<[u32; 2]>) {
    if blocks.iter().map(|[_, count]| u64::from(*count)).sum::<u64>() <= MOST_PARTS {
        return (Vec::new(), blocks.to_vec());
    }
    let mut groups = Vec::new();
    let of_tensor = |[first, count]: &[u32; 2]| {
        let start = groups.len() as u32;
        groups.extend((0..*count).step_by(GROUP as usize).map(|at| [first + at, GROUP.min(count - at)]));
        [start, groups.len() as u32 - start]
    };
    let parts = blocks.iter().map(of_tensor).collect();
    (groups, parts)
}

/// Bytes that a window and a gradient binding may take.
fn window_limit(limits: &DeviceLimits) -> u64 {
    limits.binding.min(WINDOW_CAP) / VECTOR * VECTOR
}

struct OpenWindow {
    variant: usize,
    params: Format,
    gradients: Format,
    slots: Arc<[StateFormat]>,
    buffer: usize,
    bytes: Range<u64>,
    state: u64,
    vectors: Vec<TensorBlock>,
    words: Vec<TensorBlock>,
}

impl OpenWindow {
    fn at(p: &Placement, start: u64, limits: &DeviceLimits) -> Self {
        let base = start / limits.alignment * limits.alignment;
        Self {
            variant: p.variant,
            params: p.params,
            gradients: p.gradients,
            slots: p.slots.clone(),
            buffer: p.buffer,
            bytes: base..base,
            state: 0,
            vectors: Vec::new(),
            words: Vec::new(),
        }
    }

    fn takes(&self, p: &Placement, bytes: &Range<u64>, state: u64, limits: &DeviceLimits) -> bool {
        let limit = window_limit(limits);
        // A gradient's binding starts up to one alignment ahead of it.
        let reach = limit.saturating_sub(limits.alignment);
        // Gradients may take more bytes than parameters.
        let widest = p.gradients.bytes().max(p.params.bytes()) / p.params.bytes();
        self.variant == p.variant
            && self.buffer == p.buffer
            && (bytes.end - self.bytes.start) * widest <= reach
            && (self.state + state) * WORD <= limit.min(limits.buffer)
    }

    fn close(self, layout: &mut Layout) {
        let mut runs = Vec::new();
        for (vector, blocks) in [(true, self.vectors), (false, self.words)] {
            let mut pieces: Vec<Piece> = Vec::new();
            for block in blocks {
                let row = layout.blocks.len() as u32;
                let elements = block.number * BLOCK..block.number * BLOCK + u64::from(block.len);
                let ragged = block.len % 4 != 0;
                match pieces.last_mut() {
                    Some(piece) if piece.tensor == block.tensor && piece.elements.end == elements.start => {
                        piece.blocks.end = row + 1;
                        piece.elements.end = elements.end;
                        piece.ragged = ragged;
                    }
                    _ => pieces.push(Piece { tensor: block.tensor, blocks: row..row + 1, elements, ragged }),
                }
                layout.blocks.push(block);
            }
            if !pieces.is_empty() {
                runs.push(Run { vector, pieces });
            }
        }
        layout.windows.push(Window {
            variant: self.variant,
            buffer: self.buffer,
            bytes: self.bytes,
            params: self.params,
            gradients: self.gradients,
            slots: self.slots,
            state: self.state,
            runs,
        });
    }
}

#[cfg(test)]
mod tests;
