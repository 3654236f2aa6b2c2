// A tensor for the kernels that go by tensors. `TensorRow` in `src/gpu/rows.rs`.

struct Tensor {
    lane: u32,
    live: u32,
    // Its parts of a sum: its blocks', or those of its groups of blocks.
    first_partial: u32,
    partials: u32,
    elements: f32,
    // 1 where the rule averages its iterates.
    averages: u32,
    // Of its random bits.
    key: u32,
    spare: u32,
}
