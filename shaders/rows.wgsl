// Fills a stretch of a tensor, its parameters or its state, row by row: each row from a stretch of the
// tensor as it was before, or with what a slot starts from. `RowsRow` in `src/gpu/rows.rs`.

override BLOCK: u32 = 4096u;

const NEW: u32 = 0xffffffffu;
const KEEP: u32 = 0xfffffffeu;

struct Stretch {
    // Elements of the tensor that lie here, the first at a block's start.
    first: u32,
    count: u32,
    // Where the first lies, in words.
    base: u32,
    // Elements of the whole tensor.
    elements: u32,
}

struct Rows {
    old: Stretch,
    fresh: Stretch,
    // Elements of a row, and words of an element.
    width: u32,
    slots: u32,
    spare: vec2<u32>,
    initial: array<vec4<f32>, 2>,
}

@group(0) @binding(0) var<uniform> rows: Rows;
// By new row: the old one, or NEW, or KEEP.
@group(0) @binding(1) var<storage, read> sources: array<u32>;
@group(0) @binding(2) var<storage, read_write> before: array<u32>;
@group(0) @binding(3) var<storage, read_write> after: array<u32>;

// Blocks hold slot after slot.
fn word(stretch: Stretch, element: u32, slot: u32) -> u32 {
    let start = element / BLOCK * BLOCK;
    let stride = (min(stretch.elements - start, BLOCK) + 3u) / 4u * 4u;
    return stretch.base + (start - stretch.first) * rows.slots + slot * stride + element - start;
}

@compute @workgroup_size(WORKGROUP)
fn fill_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = (group.y * groups.x + group.x) * WORKGROUP + thread;
    if index >= rows.fresh.count {
        return;
    }
    let element = rows.fresh.first + index;
    let source = sources[element / rows.width];
    if source == KEEP {
        return;
    }
    if source == NEW {
        for (var slot = 0u; slot < rows.slots; slot += 1u) {
            after[word(rows.fresh, element, slot)] = bitcast<u32>(rows.initial[slot / 4u][slot % 4u]);
        }
        return;
    }
    // What lies in another stretch is another dispatch's.
    let moved = source * rows.width + element % rows.width;
    if moved < rows.old.first || moved - rows.old.first >= rows.old.count {
        return;
    }
    for (var slot = 0u; slot < rows.slots; slot += 1u) {
        after[word(rows.fresh, element, slot)] = before[word(rows.old, moved, slot)];
    }
}
