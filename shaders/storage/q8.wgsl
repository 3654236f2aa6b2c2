// Eight bits an element: a code of a table of 256, times the largest magnitude of 256 neighbours.
// `src/storage/q8.rs` is the twin and has the tables.

struct Codes {
    // Values of the signed codes, then of the unsigned ones; the bounds between them likewise.
    values: array<vec4<f32>, 128>,
    bounds: array<vec4<f32>, 128>,
}

const UNSIGNED: u32 = 256u;
const SIGNED_ZERO: u32 = 127u;
// Scales of a slot in a block.
const SCALES: u32 = 16u;

// Near at hand: each thread looks its own codes up.
var<workgroup> values: array<f32, 512>;
var<workgroup> bounds: array<f32, 512>;
// The largest magnitudes, as bits, of up to four slots of a block.
var<workgroup> peaks: array<atomic<u32>, 64>;

// Must be called in uniform control flow, as `finish_state`.
fn begin_state(thread: u32) {
    for (var j = thread; j < 512u; j += WORKGROUP) {
        values[j] = codes.values[j / 4u][j % 4u];
        bounds[j] = codes.bounds[j / 4u][j % 4u];
    }
    for (var j = thread; j < 64u; j += WORKGROUP) {
        atomicStore(&peaks[j], 0u);
    }
    workgroupBarrier();
}

fn decode_q8(codes: u32, scale: u32, table: u32) -> vec4<f32> {
    let at = (vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
    let found = vec4<f32>(values[table + at.x], values[table + at.y], values[table + at.z], values[table + at.w]);
    return found * bitcast<f32>(scale);
}

// Tells the neighbours how large these are. Bits of magnitudes are in the order of the magnitudes.
fn raise_peak(slot: u32, i: u32, count: u32, x: vec4<f32>) {
    let mine = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
    let size = select(vec4<u32>(), bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu), mine);
    atomicMax(&peaks[slot * SCALES + i / 256u], max(max(size.x, size.y), max(size.z, size.w)));
}

fn peak_of(slot: u32, i: u32) -> u32 {
    return atomicLoad(&peaks[slot * SCALES + i / 256u]);
}

// About the code of x: decades of steps as `src/storage/q8.rs` lays the tables out, by whatever logarithm and
// quotient the device has.
fn guess_of(x: f32, scale: f32, zero: u32) -> u32 {
    let size = abs(x) / scale;
    let decade = clamp(floor(0.30103 * log2(size)) + 7.0, 0.0, 6.0);
    // With a sign, half the codes are for each side.
    let steps = exp2(decade + select(0.0, 1.0, zero == 0u));
    let first = select(steps, steps - 1.0, zero == 0u);
    let share = (size * exp2(3.3219281 * (6.0 - decade)) - 0.1) / 0.9;
    let rank = min(u32(clamp(first + floor(clamp(share, 0.0, 1.0) * steps), 0.0, 255.0)), 255u);
    return select(zero - min(rank, zero), min(zero + rank, 255u), x > 0.0);
}

// The nearest code: how many bounds are below x, found from a guess. A product each, not a quotient:
// division may be rounded in any way. A value below zero never becomes zero, so that it keeps its sign.
fn code_of(x: f32, scale: f32, table: u32, zero: u32) -> u32 {
    if x == 0.0 {
        return zero;
    }
    var code = guess_of(x, scale, zero);
    while code < 255u && bounds[table + code] * scale < x {
        code += 1u;
    }
    // Not `>=`: NaN is above no bound.
    while code > 0u && !(bounds[table + code - 1u] * scale < x) {
        code -= 1u;
    }
    // Nothing is below the zero of a table without signs.
    return code - min(code, select(0u, 1u, x < 0.0 && code == zero));
}

fn encode_q8(x: vec4<f32>, scale: u32, table: u32, zero: u32) -> u32 {
    let by = bitcast<f32>(scale);
    return code_of(x.x, by, table, zero)
        | (code_of(x.y, by, table, zero) << 8u)
        | (code_of(x.z, by, table, zero) << 16u)
        | (code_of(x.w, by, table, zero) << 24u);
}
