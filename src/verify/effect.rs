//! Whether an option changes what a comparison sees. One that does not is not checked by it.

use super::runs::{Inputs, SHAPES, Values, ordinary};
use super::{CAP, STEPS, update_error};
use crate::config::OptimizerConfig;
use crate::error::Result;

/// Whether a comparison of `changed` would see if the device ran `base` instead: some tensor's parameters or slots are
/// further apart than it lets pass.
///
/// # Errors
/// One of the configurations cannot be used.
pub fn differ(base: &OptimizerConfig, changed: &OptimizerConfig) -> Result<bool> {
    let inputs = Inputs::new(&SHAPES, STEPS, ordinary(changed));
    Ok(tells(&inputs, &inputs.on_cpu::<f64>(base)?, &inputs.on_cpu::<f64>(changed)?))
}

/// [`differ`] of two outcomes over the same inputs.
pub fn tells(inputs: &Inputs, base: &[Values], changed: &[Values]) -> bool {
    let told = |(index, value): (usize, &Values)| {
        match base.iter().find(|other| (&other.what, other.tensor) == (&value.what, value.tensor)) {
            Some(other) => update_error(&value.values, &other.values, &other.start(&inputs.params)) > CAP,
            // A slot that is only there with the change says something if it is no copy of another.
            None => {
                let mut others = changed.iter().enumerate().filter(|(i, v)| *i != index && v.tensor == value.tensor);
                !others.any(|(_, v)| v.values == value.values) && value.values.iter().any(|x| *x != 0.0)
            }
        }
    };
    changed.iter().enumerate().any(told)
}
