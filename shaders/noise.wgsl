// Noise after the step, from normal numbers. `src/rule/normal.rs` is the twin.

// `Noise::NORMAL` in `src/storage/noise.rs`.
const NORMAL_STREAM: u32 = 0xffffffffu;

// The natural logarithm of numbers from 2^-24 to 1: WGSL promises little of its own near 1. The exponent apart, a series of
// odd powers of (m - 1)/(m + 1).
fn log_of(t: vec4<f32>) -> vec4<f32> {
    // The exponent that leaves a mantissa from sqrt(1/2) to sqrt(2).
    let raised = bitcast<vec4<u32>>(t) + vec4<u32>(0x3f800000u - 0x3f3504f3u);
    let exponent = vec4<i32>(raised >> vec4<u32>(23u)) - vec4<i32>(127);
    let m = bitcast<vec4<f32>>((raised & vec4<u32>(0x7fffffu)) + vec4<u32>(0x3f3504f3u));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let sum = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    return vec4<f32>(exponent) * 0.69314718 + (s + s) * sum;
}

// Four numbers of N(0, 1) by the inverse distribution (Giles 2012, in single precision), from the upper 24 bits of four words.
fn normal_of(words: vec4<u32>) -> vec4<f32> {
    let odd = (words >> vec4<u32>(8u)) * 2u + 1u;
    let below = odd < vec4<u32>(1u << 24u);
    // From the nearer of -1 and 1; never 0.
    let s = vec4<f32>(select(vec4<u32>(1u << 25u) - odd, odd, below)) * 0x1p-24f;
    let w = -log_of(s * (2.0 - s));
    let c = w - 2.5;
    var centre = 2.81022636e-08 * c + 3.43273939e-07;
    centre = centre * c - 3.5233877e-06;
    centre = centre * c - 4.39150654e-06;
    centre = centre * c + 0.00021858087;
    centre = centre * c - 0.00125372503;
    centre = centre * c - 0.00417768164;
    centre = centre * c + 0.246640727;
    centre = centre * c + 1.50140941;
    let t = sqrt(max(w, vec4<f32>(5.0))) - 3.0;
    var tail = -0.000200214257 * t + 0.000100950558;
    tail = tail * t + 0.00134934322;
    tail = tail * t - 0.00367342844;
    tail = tail * t + 0.00573950773;
    tail = tail * t - 0.0076224613;
    tail = tail * t + 0.00943887047;
    tail = tail * t + 1.00167406;
    tail = tail * t + 2.83297682;
    let size = 1.41421356 * select(tail, centre, w < vec4<f32>(5.0)) * (1.0 - s);
    return select(size, -size, below);
}

fn with_noise(p: vec4<f32>, block: Block, i: u32, decision: Decision, track: Track) -> vec4<f32> {
    let size = sqrt(track.lr) * settings.noise;
    if size == 0.0 {
        return p;
    }
    let key = vec2<u32>(tensor_at(block.tensor).noise_key, decision.steps);
    let noise = size * normal_of(noise_of(key, block, i, NORMAL_STREAM));
    if ANY_GRADIENT {
        return saturated(p, noise);
    }
    return p + noise;
}
