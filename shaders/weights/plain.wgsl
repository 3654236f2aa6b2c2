// Parameters as they are stored are all that there is of them.

fn load_weights(block: Block, i: u32, count: u32) -> vec4<f32> {
    return unpack(load_params(block.start + i, count));
}

fn store_weights(block: Block, i: u32, count: u32, p: vec4<f32>, noise: vec2<u32>) {
    store_params(block.start + i, count, narrow_params(pack(p), block, i, noise));
}
