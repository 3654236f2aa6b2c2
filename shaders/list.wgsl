// The spans that a dispatch serves, in one pair of buffers or where each has bindings of its own, in arrays.
// `AssignmentRow` in `src/gpu/abi.rs`.

// What a workgroup serves.
struct Assignment {
    row: u32,
    // The span's bindings in the arrays, where there are some.
    member: u32,
    gradient_shift: u32,
    spare: u32,
}

@group(1) @binding(3) var<storage, read> assignments: array<Assignment>;

// The workgroup's own, for the functions that reach memory.
var<private> assigned: Assignment;

// The row of the block that a workgroup serves; keeps the rest of its assignment.
fn row_of(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    let index = block_index(group, groups);
    if index >= arrayLength(&assignments) {
        return NO_ROW;
    }
    // Not read back from `assigned`: what comes from there is not the same for all threads in the eyes of WGSL,
    // and barriers follow.
    let found = assignments[index];
    assigned = found;
    return found.row;
}

// Where the gradient of a block's i-th element lies in what is bound, in elements.
fn gradient_element(block: Block, i: u32) -> u32 {
    return block.start + assigned.gradient_shift + i;
}
