// Part of what a tensor's elements add up to. `Partial` in `src/gpu/abi.rs`.
//
// Squares are summed at three fixed scales (Blue 1978; Anderson 2017), so that neither huge nor tiny
// elements leave f32. In f32 a square is safe between 2^-50 and 2^46, 2^33 of them added up included.
// Values above are scaled by 2^-82, values below by 2^76, before they are squared.

struct Partial {
    small: f32,
    middle: f32,
    large: f32,
    largest: f32,
    // Elements counted: non-finite ones of a gradient, kept ones of a masked update. Counts stay at the largest u32 where
    // there are more: 2^32 non-finite elements must not count as none.
    count: u32,
    zeros: u32,
    spare: vec2<u32>,
}

const LARGE: f32 = 0x1p46f;
const SMALL: f32 = 0x1p-50f;
const LARGE_EXPONENT: i32 = 82;
const SMALL_EXPONENT: i32 = -76;

// The sum, or the largest u32.
fn added(a: u32, b: u32) -> u32 {
    return a + min(b, 0xffffffffu - a);
}

fn add(a: Partial, b: Partial) -> Partial {
    return Partial(
        a.small + b.small,
        a.middle + b.middle,
        a.large + b.large,
        max(a.largest, b.largest),
        added(a.count, b.count),
        added(a.zeros, b.zeros),
        vec2<u32>(),
    );
}

// x * 2^by where neither leaves the normal numbers. In integers: a compiler that regroups the factors of a square
// would square the scale, and neither 2^152 nor 2^-164 is in f32.
fn raised(x: vec4<f32>, by: i32) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<i32>>(x) + vec4<i32>(by << 23u));
}

// The sums of squares of four elements at the three scales: small, middle, large.
fn squares(x: vec4<f32>) -> vec3<f32> {
    let size = abs(x);
    let is_small = size < vec4<f32>(SMALL);
    let is_large = size >= vec4<f32>(LARGE);
    // First to where subnormal numbers are normal.
    let normal = x * 0x1p24f;
    let is_tiny = is_small & (normal != vec4<f32>());
    let small = select(vec4<f32>(), raised(normal, -SMALL_EXPONENT - 24), is_tiny);
    let large = select(vec4<f32>(), raised(x, -LARGE_EXPONENT), is_large);
    let middle = select(select(x, vec4<f32>(), is_small), vec4<f32>(), is_large);
    return vec3<f32>(dot(small, small), dot(middle, middle), dot(large, large));
}

fn largest_of(x: vec4<f32>) -> f32 {
    let size = abs(x);
    return max(max(size.x, size.y), max(size.z, size.w));
}

// mantissa * 2^exponent, for numbers that can leave f32.
struct Scaled {
    mantissa: f32,
    exponent: i32,
}

// x * 2^-by for x >= 0, in integers: the ratio of two scales leaves f32, and a compiler may merge two
// factors that do not into one that does.
fn lower(x: f32, by: i32) -> f32 {
    let bits = bitcast<i32>(x) - (by << 23u);
    return bitcast<f32>(select(0, bits, bits >= 0x00800000));
}

// The root of the sum of squares.
fn norm_of(total: Partial) -> Scaled {
    if total.large > 0.0 {
        return Scaled(sqrt(total.large + lower(total.middle, 2 * LARGE_EXPONENT)), LARGE_EXPONENT);
    }
    if total.middle > 0.0 {
        return Scaled(sqrt(total.middle + lower(total.small, -2 * SMALL_EXPONENT)), 0);
    }
    return Scaled(sqrt(total.small), SMALL_EXPONENT);
}

// The largest magnitude, at the scale where dividing by it is safe.
fn largest_scaled(total: Partial) -> Scaled {
    if total.largest >= LARGE {
        return Scaled(lower(total.largest, LARGE_EXPONENT), LARGE_EXPONENT);
    }
    return Scaled(total.largest, 0);
}

// The number in f32, infinite or zero where it leaves it.
fn plain(x: Scaled) -> f32 {
    if x.exponent > 0 {
        return x.mantissa * 0x1p82f;
    }
    if x.exponent < 0 {
        return x.mantissa * 0x1p-76f;
    }
    return x.mantissa;
}

// limit / x, both above zero. Of the exponents apart, so that neither the quotient nor, later, a value
// times one of the factors leaves f32 where the value times both does not.
fn quotient(limit: f32, x: Scaled) -> Scaled {
    let top = bitcast<i32>(limit);
    let bottom = bitcast<i32>(x.mantissa);
    let one = bitcast<i32>(1.0);
    let mantissa = bitcast<f32>((top & 0x007fffff) | one) / bitcast<f32>((bottom & 0x007fffff) | one);
    let exponent = (top >> 23u) - (bottom >> 23u) - x.exponent;
    if abs(exponent) < 126 {
        return Scaled(ldexp(mantissa, exponent), 0);
    }
    // `ldexp` takes no more than f32 holds.
    let most = clamp(exponent, -126, 126);
    return Scaled(ldexp(mantissa, exponent - most), most);
}

// min(1, limit / (x + eps))
fn clip_factor(x: Scaled, limit: f32, eps: f32) -> Scaled {
    if x.exponent > 0 {
        // x is above 2^46 and eps vanishes beside it.
        if x.mantissa <= lower(limit, LARGE_EXPONENT) {
            return Scaled(1.0, 0);
        }
        return quotient(limit, x);
    }
    let divisor = plain(x) + eps;
    if divisor <= limit {
        return Scaled(1.0, 0);
    }
    return quotient(limit, Scaled(divisor, 0));
}

// limit / x, and zero for zero
fn normalize_factor(x: Scaled, limit: f32) -> Scaled {
    if x.mantissa == 0.0 {
        return Scaled(0.0, 0);
    }
    return quotient(limit, x);
}
