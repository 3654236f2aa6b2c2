fn set_state_f32(word: u32, bits: vec4<u32>) {
    state[word / 4u] = bits;
}
