// Parameters of 16 bits with an f32 copy in the state.

// The copy, unless the caller has written other parameters since. Before the first step it is zero, and
// so no copy of any parameter but zero.
fn load_weights(block: Block, i: u32, count: u32) -> vec4<f32> {
    let stored = load_params(block.start + i, count);
    let copy = state_f32(master_word(block, i));
    let noise = vec2<u32>();
    let same = narrow_params(copy, block, i, noise) == narrow_params(stored, block, i, noise);
    return unpack(select(stored, copy, same));
}

fn store_weights(block: Block, i: u32, count: u32, p: vec4<f32>, noise: vec2<u32>) {
    set_state_f32(master_word(block, i), pack(p));
    store_params(block.start + i, count, narrow_params(pack(p), block, i, noise));
}
