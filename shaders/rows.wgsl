// Rows of a tensor, in a stretch of its parameters or of its state. Bits are moved as they are stored; rows of slots in 8
// bits are whole groups of 256 elements, which share a scale. Beside it stands `rows/fill.wgsl` or `rows/start.wgsl`.

override BLOCK: u32 = 4096u;

const SCALED: u32 = 256u;

struct Stretch {
    // Elements of the tensor that lie here, the first at a block's start.
    first: u32,
    count: u32,
    // Where the first lies, in words.
    base: u32,
    // Elements of the whole tensor.
    elements: u32,
}

struct RowSlot {
    // Words of four elements: 4, 2, or 1 with a scale for 256.
    quad_words: u32,
    // What the slots before it take, of four elements and of 256.
    quads_before: u32,
    scales_before: u32,
    // What an element starts from, and its scale.
    fill: u32,
    scale: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

struct Rows {
    // For `start_rows`: of the list of runs, the first and how many, and the groups of four in them.
    old: Stretch,
    fresh: Stretch,
    // Elements of a row.
    width: u32,
    // Slots, and what all of them take.
    slots: u32,
    quad_words: u32,
    scales: u32,
    table: array<RowSlot, 8>,
}

@group(0) @binding(0) var<uniform> rows: Rows;
@group(0) @binding(3) var<storage, read_write> after: array<u32>;

struct Place {
    word: u32,
    shift: u32,
    // Of the scale.
    scale: u32,
}

// Blocks hold slot after slot, and behind each its scales.
fn place_of(stretch: Stretch, slot: RowSlot, element: u32) -> Place {
    let start = element / BLOCK * BLOCK;
    let len = min(stretch.elements - start, BLOCK);
    let quads = (len + 3u) / 4u;
    let ahead = start - stretch.first;
    let block = stretch.base + ahead / 4u * rows.quad_words + ahead / SCALED * rows.scales;
    let own = block + quads * slot.quads_before + (len + SCALED - 1u) / SCALED * slot.scales_before;
    let i = element - start;
    return Place(own + i * slot.quad_words / 4u, i * slot.quad_words * 8u % 32u, own + quads + i / SCALED);
}

// Other bits in the place of an element, in a slot. What lies beside it in its word stays.
fn put_element(fresh: Place, slot: RowSlot, element: u32, bits: u32, scale: u32) {
    let mask = (0xffffffffu >> (32u - slot.quad_words * 8u)) << fresh.shift;
    after[fresh.word] = (after[fresh.word] & ~mask) | ((bits << fresh.shift) & mask);
    if slot.quad_words == 1u && element % SCALED == 0u {
        after[fresh.scale] = scale;
    }
}
