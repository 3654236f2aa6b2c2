// The span that a dispatch serves. `SpanRow` in `src/gpu/abi.rs`.

struct Span {
    first_block: u32,
    blocks: u32,
    gradient_shift: u32,
    // Its jobs among those by unit, and by row and column.
    first_unit_job: u32,
    unit_jobs: u32,
    first_line_job: u32,
    line_jobs: u32,
    spare: u32,
}

@group(1) @binding(3) var<uniform> span: Span;

// The row of the block that a workgroup serves.
fn row_of(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    let index = block_index(group, groups);
    return select(NO_ROW, span.first_block + index, index < span.blocks);
}

// Where the gradient of a block's i-th element lies in what is bound, in elements.
fn gradient_element(block: Block, i: u32) -> u32 {
    return block.start + span.gradient_shift + i;
}
