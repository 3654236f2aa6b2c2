// Gradients of several micro-batches, added up in the first slot of the state.

// Whether an element that is not finite must be found again in the sum.
override KEEP_NONFINITE: bool = true;

// The sum so far and the gradient. What is not finite is marked by its bits: arithmetic on it need not
// give a NaN.
fn with_accumulated(words: vec4<u32>, block: Block, i: u32) -> vec4<u32> {
    let sum = state_f32(block.state + i);
    var fresh = words;
    if ZERO_NONFINITE {
        fresh = select(words, vec4<u32>(), nonfinite(words));
    }
    let total = pack(unpack(sum) + unpack(fresh));
    if KEEP_NONFINITE {
        return select(total, vec4<u32>(0x7fc00000u), nonfinite(sum) | nonfinite(fresh));
    }
    return total;
}
