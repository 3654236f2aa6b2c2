// Starts rows anew, and reaches nothing else: their elements come as runs of groups of four.

struct Run {
    // The first group of four, by the tensor's elements.
    first: u32,
    // Groups in the runs before it.
    before: u32,
    // Which of each four start anew.
    mask: u32,
    spare: u32,
}

@group(0) @binding(1) var<storage, read> runs: array<Run>;

// One thread serves a group of four, so that no two write to one word.
@compute @workgroup_size(WORKGROUP)
fn start_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = (group.y * groups.x + group.x) * WORKGROUP + thread;
    if index >= rows.old.base {
        return;
    }
    // The last run that starts at it or before.
    var at = rows.old.first;
    var end = at + rows.old.count;
    while end - at > 1u {
        let middle = at + (end - at) / 2u;
        if runs[middle].before <= index {
            at = middle;
        } else {
            end = middle;
        }
    }
    let run = runs[at];
    let first = (run.first + index - run.before) * 4u;
    for (var i = 0u; i < 4u; i += 1u) {
        let element = first + i;
        if ((run.mask >> i) & 1u) == 0u {
            continue;
        }
        for (var number = 0u; number < rows.slots; number += 1u) {
            let slot = rows.table[number];
            put_element(place_of(rows.fresh, slot, element), slot, element, slot.fill, slot.scale);
        }
    }
}
