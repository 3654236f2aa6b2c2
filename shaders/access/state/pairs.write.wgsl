fn set_state_f32(word: u32, bits: vec4<u32>) {
    write_state(word / 2u, bits.xy);
    write_state(word / 2u + 1u, bits.zw);
}

fn set_state_half(word: u32, words: vec2<u32>) {
    write_state(word / 2u, words);
}
