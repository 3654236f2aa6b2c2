fn set_state_f32(word: u32, bits: vec4<u32>) {
    write_state(word, bits.x);
    write_state(word + 1u, bits.y);
    write_state(word + 2u, bits.z);
    write_state(word + 3u, bits.w);
}
