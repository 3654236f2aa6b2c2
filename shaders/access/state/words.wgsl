// State of slots in f32 and q8, word by word.

fn state_f32(word: u32) -> vec4<u32> {
    return vec4<u32>(read_state(word), read_state(word + 1u), read_state(word + 2u), read_state(word + 3u));
}
