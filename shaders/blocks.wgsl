// The block table. `BlockRow` in `src/gpu/rows.rs`.

struct Block {
    tensor: u32,
    number: u32,
    len: u32,
    start: u32,
    state: u32,
    partial: u32,
    spare: vec2<u32>,
}

// What `row_of` gives where there is no block: the second dimension of a dispatch is not always filled.
const NO_ROW: u32 = 0xffffffffu;
