// Fills a stretch row by row: each row from a stretch of the tensor as it was before, or with what a slot starts from.

const NEW: u32 = 0xffffffffu;

// By new row: the old one, or NEW.
@group(0) @binding(1) var<storage, read> sources: array<u32>;
@group(0) @binding(2) var<storage, read_write> before: array<u32>;

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
            put_element(place_of(rows.fresh, slot, element), slot, element, bits, scale);
        }
    }
}
