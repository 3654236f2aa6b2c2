//! Checks that several options share.

use super::OptionError;

fn require(ok: bool, key: &str, value: f64, allowed: &str) -> Result<(), OptionError> {
    if ok { Ok(()) } else { Err(OptionError::new(key, format!("must be {allowed}, got {value:?}"))) }
}

/// Finite and at least 0.
///
/// # Errors
/// Any other value.
pub fn non_negative(key: &str, value: f64) -> Result<(), OptionError> {
    let range = 0.0..=f64::from(f32::MAX);
    require(range.contains(&value), key, value, "a finite number, at least 0")
}

/// Finite: within f32.
///
/// # Errors
/// Any other value.
pub fn finite(key: &str, value: f64) -> Result<(), OptionError> {
    require(value.abs() <= f64::from(f32::MAX), key, value, "a finite number")
}

/// Finite and above 0.
///
/// # Errors
/// Any other value.
pub fn positive(key: &str, value: f64) -> Result<(), OptionError> {
    let ok = value > 0.0 && value <= f64::from(f32::MAX);
    require(ok, key, value, "a finite number above 0")
}

/// A term that keeps a denominator from zero. GPUs compute in f32 and may flush subnormal
/// numbers, so it must be a normal f32.
///
/// # Errors
/// Any other value.
pub fn divisor(key: &str, value: f64) -> Result<(), OptionError> {
    let range = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
    require(range.contains(&value), key, value, "a normal f32 above 0 (1.2e-38 to 3.4e38), since it divides")
}

/// At least 0 and below 1: a decay rate of a moving average.
///
/// # Errors
/// Any other value.
pub fn rate(key: &str, value: f64) -> Result<(), OptionError> {
    require((0.0..1.0).contains(&value), key, value, "at least 0 and below 1")
}

/// [`rate`] for each of a list.
///
/// # Errors
/// The first value out of range.
pub fn rates(key: &str, values: &[f64]) -> Result<(), OptionError> {
    values.iter().try_for_each(|v| rate(key, *v))
}
