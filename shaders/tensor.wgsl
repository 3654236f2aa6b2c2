// A tensor for the kernels that go by tensors. `TensorRow` in `src/gpu/abi.rs`.

struct Tensor {
    track: u32,
    live: u32,
    // Its parts of a sum: its blocks', or those of its groups of blocks.
    first_partial: u32,
    partials: u32,
    elements: f32,
    // 1 where the rule averages its iterates.
    averages: u32,
    // Of its random bits.
    key: u32,
    // 1 where limits and normalising of norms leave its gradients alone.
    unclipped: u32,
    // Of those of its noise.
    noise_key: u32,
}

fn tensor_at(index: u32) -> Tensor {
    return load_tensor(settings.tensors_at + index * TENSOR_WORDS);
}
