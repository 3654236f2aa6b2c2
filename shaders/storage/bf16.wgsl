// bf16, the upper half of an f32. Integers only; `src/storage/bits.rs` is the twin.

fn widen_bf16(words: vec2<u32>) -> vec4<u32> {
    return split_halves(words) << vec4<u32>(16u);
}

// Rounds by what is added to the lower half, to `largest` at most. NaN stays NaN, even one whose digits
// are all in the lower half.
fn narrow_bf16(bits: vec4<u32>, carry: vec4<u32>, largest: u32) -> vec4<u32> {
    let size = bits & vec4<u32>(~SIGN);
    let rounded = min((size + carry) >> vec4<u32>(16u), vec4<u32>(largest)) | ((bits & vec4<u32>(SIGN)) >> vec4<u32>(16u));
    let quiet = select(vec4<u32>(), vec4<u32>(0x40u), size > vec4<u32>(INFINITY));
    return select(rounded, (bits >> vec4<u32>(16u)) | quiet, size >= vec4<u32>(INFINITY));
}

// To nearest, ties to even; what passes the range becomes infinite.
fn nearest_bf16(bits: vec4<u32>) -> vec4<u32> {
    return narrow_bf16(bits, vec4<u32>(0x7fffu) + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u)), 0x7f80u);
}

// Up or down by 16 random bits; a finite number stays finite.
fn stochastic_bf16(bits: vec4<u32>, random: vec4<u32>) -> vec4<u32> {
    return narrow_bf16(bits, random, 0x7f7fu);
}
