// State of slots in f32 and q8, word by word.

fn state_f32(word: u32) -> vec4<u32> {
    return vec4<u32>(state[word], state[word + 1u], state[word + 2u], state[word + 3u]);
}
