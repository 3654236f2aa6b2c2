// Gradients of several micro-batches, added up in the first slot of the state. Each is divided by its own loss scale as
// it is added: the scale may be another by the time that the sum is used.

// Whether an element that is not finite must be found again in the sum.
override KEEP_NONFINITE: bool = true;

// The sum so far and the gradient. What is not finite is marked by its bits: arithmetic on it need not
// give a NaN, and a compiler may assume that a sum is finite, so that the sum's own bits tell nothing. What is finite stays
// so.
fn with_accumulated(words: vec4<u32>, block: Block, i: u32, unscale: f32) -> vec4<u32> {
    let sum = state_f32(block.state + i);
    var fresh = unpack(words) * unscale;
    if ZERO_NONFINITE {
        fresh = select(fresh, vec4<f32>(), nonfinite(words));
    }
    let total = pack(saturated(unpack(sum), fresh));
    if KEEP_NONFINITE {
        return select(total, vec4<u32>(0x7fc00000u), nonfinite(sum) | nonfinite(words));
    }
    return total;
}

// What the sum is multiplied with: the mean is left to be taken.
fn factor_of(unscale: f32) -> f32 {
    return settings.mean;
}
