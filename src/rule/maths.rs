//! What the twins of rules share: `shaders/maths.wgsl` for one element.

use super::float::Float;

/// Moving average that keeps `beta` of `old` and gives `value` the weight `w`, the complement of `beta`, in the form that
/// loses no digits at either end. Both are scalars of the host's: f32 holds neither to its last digit where it is taken
/// from the other after rounding.
#[inline(always)]
pub fn average<F: Float>(old: F, value: F, beta: F, w: F) -> F {
    if w < F::of(0.5) { old + w * (value - old) } else { value - beta * (value - old) }
}

/// [`average`] of numbers up to the largest of f32, whose difference can leave it: of their halves.
#[inline(always)]
pub fn average_wide<F: Float>(old: F, value: F, beta: F, w: F) -> F {
    let half = F::of(0.5) * value - F::of(0.5) * old;
    let twice = |x: F| x + x;
    if w < F::of(0.5) { old + twice(w) * half } else { value - twice(beta) * half }
}

/// Number within ±`limit`; NaN stays.
#[inline(always)]
pub fn bounded<F: Float>(x: F, limit: F) -> F {
    // Not `Float::min`, which would turn NaN into the limit.
    if x > limit {
        limit
    } else if x < -limit {
        -limit
    } else {
        x
    }
}

/// Sum that stays finite in f32, in f64 too: what f32 saturates at is right.
#[inline(always)]
pub fn saturated<F: Float>(a: F, b: F) -> F {
    bounded(a + b, F::of(f32::MAX.into()))
}

/// The largest gradient that a rule sees which squares gradients or multiplies them
/// ([`Rule::takes_any_gradient`](crate::rule::Rule::takes_any_gradient)): 2^60. Not by far does its square leave f32, nor that
/// of a difference of two, nor a sum of some hundreds of squares.
pub const LARGEST_SEEN: f64 = (1u64 << 60) as f64;

/// Square that stays finite.
#[inline(always)]
pub fn square<F: Float>(x: F) -> F {
    // Not `min`, which would turn NaN into the bound.
    let square = x * x;
    if square == F::infinity() { F::max_value() } else { square }
}

/// `1 − βᵗ`, the bias of a moving average after `t` steps from zero. Without cancellation for β near
/// 1; on the host, since WGSL's `pow` is not precise enough.
pub fn correction(beta: f64, t: u64) -> f64 {
    -(t as f64 * beta.ln()).exp_m1()
}
