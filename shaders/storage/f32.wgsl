// The bits of four f32, as all storage is widened to. Bits only, no arithmetic.

fn unpack(words: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(words);
}

fn pack(values: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(values);
}

// Infinity or NaN, by the bits as loaded: a compiler may assume that no float is either.
fn nonfinite(words: vec4<u32>) -> vec4<bool> {
    return (words & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u);
}

// NaN, likewise. It stands for what is not there yet.
fn is_nan(words: vec4<u32>) -> vec4<bool> {
    return (words & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}
