// Each gradient is a step's own.

fn with_accumulated(words: vec4<u32>, block: Block, i: u32, unscale: f32) -> vec4<u32> {
    return words;
}

// What a step's gradient is multiplied with.
fn factor_of(unscale: f32) -> f32 {
    return unscale;
}
