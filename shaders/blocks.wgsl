// The block table. `BlockRow` in `src/gpu/abi.rs`.

struct Block {
    tensor: u32,
    number: u32,
    len: u32,
    start: u32,
    state: u32,
    partial: u32,
    // 1 where its gradients have no part in norms.
    unclipped: u32,
    spare: u32,
}

// A row of `tables`, which start with the blocks.
fn block_at(row: u32) -> Block {
    return load_block(row * BLOCK_WORDS);
}

// Which of a dispatch's blocks a workgroup serves; past the last where the second dimension is not filled.
fn block_index(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}

// What `row_of` gives where there is no block: the second dimension of a dispatch is not always filled.
const NO_ROW: u32 = 0xffffffffu;
