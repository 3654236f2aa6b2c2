// Fills a stretch of a tensor, its parameters or its state, row by row: each row from a stretch of the
// tensor as it was before, or with what a slot starts from. Bits are moved as they are stored; rows of
// slots in 8 bits are whole groups of 256 elements, which share a scale.

override BLOCK: u32 = 4096u;

const NEW: u32 = 0xffffffffu;
const KEEP: u32 = 0xfffffffeu;
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
// By new row: the old one, or NEW, or KEEP.
@group(0) @binding(1) var<storage, read> sources: array<u32>;
@group(0) @binding(2) var<storage, read_write> before: array<u32>;
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

// One thread moves four elements, so that no two write to one word. What lies beside them in it stays:
// another dispatch's, or a neighbour's.
@compute @workgroup_size(WORKGROUP)
fn fill_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let quad = ((group.y * groups.x + group.x) * WORKGROUP + thread) * 4u;
    let end = min(quad + 4u, rows.fresh.count);
    for (var index = quad; index < end; index += 1u) {
        let element = rows.fresh.first + index;
        let source = sources[element / rows.width];
        if source == KEEP {
            continue;
        }
        let moved = source * rows.width + element % rows.width;
        // What lies in another stretch is another dispatch's.
        if source != NEW && (moved < rows.old.first || moved - rows.old.first >= rows.old.count) {
            continue;
        }
        for (var number = 0u; number < rows.slots; number += 1u) {
            let slot = rows.table[number];
            var bits = slot.fill;
            var scale = slot.scale;
            if source != NEW {
                let old = place_of(rows.old, slot, moved);
                bits = before[old.word] >> old.shift;
                if slot.quad_words == 1u {
                    scale = before[old.scale];
                }
            }
            let fresh = place_of(rows.fresh, slot, element);
            let mask = (0xffffffffu >> (32u - slot.quad_words * 8u)) << fresh.shift;
            after[fresh.word] = (after[fresh.word] & ~mask) | ((bits << fresh.shift) & mask);
            if slot.quad_words == 1u && element % SCALED == 0u {
                after[fresh.scale] = scale;
            }
        }
    }
}
