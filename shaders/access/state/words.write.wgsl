fn set_state_f32(word: u32, bits: vec4<u32>) {
    state[word] = bits.x;
    state[word + 1u] = bits.y;
    state[word + 2u] = bits.z;
    state[word + 3u] = bits.w;
}
