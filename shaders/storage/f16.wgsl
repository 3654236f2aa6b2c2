// f16. Integers only, since a GPU may flush subnormal numbers and `pack2x16float` may round in any
// way; `src/storage/bits.rs` is the twin.

fn widen_f16(words: vec2<u32>) -> vec4<u32> {
    let halves = split_halves(words);
    let size = halves & vec4<u32>(0x7fffu);
    // So many units of 2^-24, each of which f32 holds as a normal number.
    let top = firstLeadingBit(max(size, vec4<u32>(1u)));
    let shift = vec4<u32>(23u) - min(top, vec4<u32>(23u));
    let small = ((top + vec4<u32>(103u)) << vec4<u32>(23u)) | ((size << shift) & vec4<u32>(0x007fffffu));
    var wide = (size << vec4<u32>(13u)) + vec4<u32>(0x38000000u);
    wide = select(wide, small, size < vec4<u32>(0x400u));
    wide = select(wide, vec4<u32>(), size == vec4<u32>());
    wide = select(wide, vec4<u32>(INFINITY) | (size << vec4<u32>(13u)), size >= vec4<u32>(0x7c00u));
    return wide | ((halves & vec4<u32>(0x8000u)) << vec4<u32>(16u));
}

// To nearest, ties to even; what passes the range becomes infinite, NaN stays NaN.
fn nearest_f16(bits: vec4<u32>) -> vec4<u32> {
    let size = bits & vec4<u32>(~SIGN);
    // From 2^-14 on: rebias the exponent, round off 13 digits.
    let rebased = size - vec4<u32>(0x38000000u);
    let odd = (rebased >> vec4<u32>(13u)) & vec4<u32>(1u);
    var half = min((rebased + vec4<u32>(0xfffu) + odd) >> vec4<u32>(13u), vec4<u32>(0x7c00u));
    // Down to half of 2^-24: units of 2^-24.
    let digits = (size & vec4<u32>(0x007fffffu)) | vec4<u32>(0x00800000u);
    let drop = clamp(vec4<u32>(126u) - min(size >> vec4<u32>(23u), vec4<u32>(112u)), vec4<u32>(14u), vec4<u32>(25u));
    let kept = digits >> drop;
    let rest = digits - (kept << drop);
    let middle = vec4<u32>(1u) << (drop - vec4<u32>(1u));
    let up = (rest > middle) | ((rest == middle) & ((kept & vec4<u32>(1u)) == vec4<u32>(1u)));
    half = select(half, kept + select(vec4<u32>(), vec4<u32>(1u), up), size < vec4<u32>(0x38800000u));
    half = select(half, vec4<u32>(), size < vec4<u32>(0x33000000u));
    let quiet = select(vec4<u32>(0x7c00u), vec4<u32>(0x7e00u) | ((size >> vec4<u32>(13u)) & vec4<u32>(0x3ffu)), size > vec4<u32>(INFINITY));
    half = select(half, quiet, size >= vec4<u32>(INFINITY));
    return half | ((bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u));
}
