// State of which every slot is f32, by whole vectors.

fn state_f32(word: u32) -> vec4<u32> {
    return read_state(word / 4u);
}
