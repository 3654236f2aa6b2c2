// The block table and the span of it that a dispatch serves. `BlockRow` and `SpanRow` in
// `src/gpu/rows.rs`.

struct Block {
    tensor: u32,
    number: u32,
    len: u32,
    start: u32,
    state: u32,
    partial: u32,
    spare: vec2<u32>,
}

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

// Which block of the span a workgroup serves; past the span's end where the second dimension of a
// dispatch is not filled.
fn block_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
