//! A device checked against the float64 oracle: what a user with an odd driver, and the author of a
//! rule, runs before trusting either.

mod effect;
mod guards;
mod runs;
mod storages;
mod stored;
mod surroundings;
mod variations;

pub use effect::differ;
pub use guards::check_guard_words;
pub use storages::{named_storages, storages};
pub use surroundings::{all_around, around};
pub use variations::{Variation, most_varied, variations};

use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::Plan;
use crate::rule::Rule;
use crate::storage::Storage;
use runs::{Inputs, Numbers, SHAPES};

/// Steps of a comparison: as many as RAdam needs to rectify under its defaults.
pub const STEPS: usize = 6;

/// What f32 may be off the oracle, by ‖out − ref‖ / ‖ref − start‖.
pub const F32_LIMIT: f64 = 1e-5;

/// How much further than the CPU's own f32 run the GPU may be off where that run passes [`F32_LIMIT`]:
/// both round p at every step (the centred RMSprop cancels besides), and draw those roundings independently, a tensor of one
/// element but once. Where division and root are correctly rounded 1.5 is enough; WGSL lets both be 2.5 ULP off.
const SAME_NOISE: f64 = 2.0;

/// The most that the CPU's own f32 run can excuse. Arithmetic that is further off is unstable in f32, on both sides.
const CAP: f64 = 1e-3;

/// What f32 may be off where the CPU's own f32 run is off by `peer`: [`F32_LIMIT`], or as far as that run where it is off
/// by more, up to 1e-3. Beyond that only as far as `rounding`, what comes of rounding the parameters at every step: a floor
/// where updates are small beside them.
pub fn allowed(peer: f64, rounding: f64) -> f64 {
    let noise = SAME_NOISE * peer;
    // A run that failed excuses nothing.
    if noise.is_finite() { F32_LIMIT.max(noise.min(CAP.max(rounding))) } else { F32_LIMIT }
}

/// The most that comes of rounding parameters at each of so many steps, by ‖out − ref‖ / ‖ref − start‖: half a unit in the last
/// place for themselves, and as much for what is kept beside them and follows them.
pub fn rounding_of(reference: &[f64], start: &[f64], steps: usize) -> f64 {
    let units: Vec<_> = reference.iter().map(|x| x + steps as f64 * f64::from(f32::EPSILON) * x.abs()).collect();
    update_error(&units, reference, start)
}

/// One figure of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// `parameters`, or a slot's name.
    pub what: String,
    /// The tensor.
    pub tensor: String,
    /// The GPU's error against the float64 oracle.
    pub error: f64,
    /// What it may be.
    pub allowed: f64,
}

impl Finding {
    /// Whether the error is within what is allowed. NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }
}

/// Runs `steps` steps of a configuration on the device and on the oracle, and compares parameters and
/// all slots. Where something is not stored in f32, each step is compared by itself, and the errors are in steps
/// from one number of the storage to the next.
///
/// # Errors
/// The configuration cannot be used, or the device fails.
pub fn compare(gpu: &Gpu, config: &OptimizerConfig, steps: usize) -> Result<Vec<Finding>> {
    compare_over(gpu, config, &Inputs::new(&SHAPES, steps, runs::ordinary(config)))
}

/// [`compare`] with gradients of that magnitude, among them zeros of both signs and subnormal numbers.
/// Magnitudes whose squares leave f32 show whether norms do not.
///
/// # Errors
/// As [`compare`].
pub fn compare_special_values(
    gpu: &Gpu,
    config: &OptimizerConfig,
    steps: usize,
    magnitude: f32,
) -> Result<Vec<Finding>> {
    let special = |numbers: &mut Numbers, element: usize| {
        let value = magnitude * numbers.next();
        match element % 16 {
            3 => 0.0,
            5 => -0.0,
            // A device may take it for zero: beside the magnitudes of a check that shows nowhere.
            7 => f32::from_bits(1),
            _ => value,
        }
    };
    compare_over(gpu, config, &Inputs::new(&SHAPES, steps, special))
}

fn compare_over(gpu: &Gpu, config: &OptimizerConfig, inputs: &Inputs) -> Result<Vec<Finding>> {
    let plan = Plan::new(config, &inputs.specs)?;
    if plan.variants.iter().any(|variant| variant.storage != Storage::default()) {
        return stored::compare(gpu, config, inputs);
    }
    let exact = inputs.on_cpu::<f64>(config)?;
    let peer = inputs.on_cpu::<f32>(config)?;
    let found = inputs.on_gpu(gpu, config)?;
    let mut findings = Vec::new();
    for ((exact, peer), found) in exact.iter().zip(&peer).zip(&found) {
        let start = exact.start(&inputs.params);
        let rounding = match exact.what.as_str() {
            "parameters" => rounding_of(&exact.values, &start, inputs.gradients.len()),
            _ => 0.0,
        };
        let allowed = allowed(update_error(&peer.values, &exact.values, &start), rounding);
        let error = update_error(&found.values, &exact.values, &start);
        let tensor = inputs.specs[exact.tensor].name.clone();
        findings.push(Finding { what: exact.what.clone(), tensor, error, allowed });
    }
    Ok(findings)
}

/// Checks a rule: its WGSL compiles, and its twin does the same.
///
/// # Errors
/// [`Error::Shader`] with the compiler's words, or [`Error::Twin`] with the rule's line and the figures.
pub fn check_rule(gpu: &Gpu, rule: &dyn Rule) -> Result<()> {
    let findings = compare(gpu, &OptimizerConfig::from_boxed(rule.boxed()), STEPS)?;
    let Some(miss) = findings.iter().find(|f| !f.passed()) else { return Ok(()) };
    let (number, line) = rule
        .wgsl()
        .lines()
        .enumerate()
        .find(|(_, line)| line.trim_start().starts_with("fn direction"))
        .map_or((0, ""), |(i, line)| (i + 1, line.trim()));
    Err(Error::Twin {
        rule: rule.name().to_owned(),
        reason: format!(
            "{} of {} are {:.1e} off, allowed {:.1e}; line {number} of its WGSL: {line}",
            miss.what, miss.tensor, miss.error, miss.allowed
        ),
    })
}

/// ‖out − ref‖ / ‖ref − start‖; zero where nothing is off.
pub fn update_error(out: &[f64], reference: &[f64], start: &[f64]) -> f64 {
    let norm = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    let off = norm(out, reference);
    if off == 0.0 { 0.0 } else { off / norm(reference, start) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_excuses_only_so_much() {
        assert_eq!(allowed(1e-8, 0.0), F32_LIMIT);
        assert_eq!(allowed(1e-4, 0.0), 2e-4);
        for unstable in [1e-3, 0.5, 1e6] {
            assert_eq!(allowed(unstable, 0.0), CAP);
            assert_eq!(allowed(unstable, 1.5e-3), 1.5e-3);
        }
        // Nothing beyond what the peer shows, and nothing for one that failed.
        assert_eq!(allowed(1e-3, 1.0), 2e-3);
        assert_eq!([f64::NAN, f64::INFINITY].map(|failed| allowed(failed, 1.0)), [F32_LIMIT; 2]);
    }

    #[test]
    fn rounding_counts_beside_small_updates_only() {
        let start = [1.0, -2.0];
        assert!(rounding_of(&[1.5, -2.5], &start, 6) < 5e-6);
        assert!(rounding_of(&[1.0 + 1e-5, -2.0], &start, 6) > 1e-2);
    }
}
