// State of slots in f32 and bf16, by pairs of words.

fn state_f32(word: u32) -> vec4<u32> {
    return vec4<u32>(read_state(word / 2u), read_state(word / 2u + 1u));
}

fn state_half(word: u32) -> vec2<u32> {
    return read_state(word / 2u);
}
