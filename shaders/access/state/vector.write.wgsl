fn set_state_f32(word: u32, bits: vec4<u32>) {
    write_state(word / 4u, bits);
}
