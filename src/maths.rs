//! What the twins of rules share: `shaders/maths.wgsl` for one element.

use crate::float::Float;

/// Moving average that gives `value` the weight `w`, in the form that loses no digits at either end.
#[inline(always)]
pub fn average<F: Float>(old: F, value: F, w: F) -> F {
    if w < F::of(0.5) { old + w * (value - old) } else { value - (F::one() - w) * (value - old) }
}

/// Square that stays finite.
#[inline(always)]
pub fn square<F: Float>(x: F) -> F {
    // Not `min`, which would turn NaN into the bound.
    let square = x * x;
    if square == F::infinity() { F::max_value() } else { square }
}

/// Number that stays finite as an `F`, as a [`square`] does.
pub fn held<F: Float>(x: f64) -> F {
    let x = F::of(x);
    if x == F::infinity() { F::max_value() } else { x }
}

/// `1 − βᵗ`, the bias of a moving average after `t` steps from zero. Without cancellation for β near
/// 1; on the host, since WGSL's `pow` is not precise enough.
pub fn correction(beta: f64, t: u64) -> f64 {
    -(t as f64 * beta.ln()).exp_m1()
}
