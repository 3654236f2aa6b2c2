//! How far apart numbers of a storage are, and values that may be a step of it apart.

use wgpu_optim::storage::code_table;
use wgpu_optim::{Format, StateFormat, TensorState};

/// How values are stored, and so how far apart neighbours are.
#[derive(Debug, Clone)]
pub enum Grid {
    Float(Format),
    Codes { signed: bool, scales: Vec<f32> },
}

impl Grid {
    pub fn of_slot(tensor: &TensorState<f64>, slot: &str) -> Self {
        let Some(storage) = tensor.storage.iter().find(|s| s.slot == slot) else { return Self::Float(Format::F32) };
        match storage.format {
            StateFormat::F32 => Self::Float(Format::F32),
            StateFormat::Bf16 => Self::Float(Format::Bf16),
            StateFormat::Q8 => Self::Codes { signed: storage.signed, scales: storage.scales.clone() },
        }
    }

    /// From a number to the next, at that value.
    pub fn step(&self, element: usize, value: f64) -> f64 {
        match self {
            Self::Float(format) => {
                let bits = format.bits(value.abs() as f32);
                f64::from(format.value(bits + 1)) - f64::from(format.value(bits))
            }
            Self::Codes { signed, scales } => {
                let (table, scale) = (code_table(*signed), f64::from(scales[element / 256]));
                let above = table.values.partition_point(|x| f64::from(*x) * scale < value);
                let gap = |code: usize| match (table.values.get(code), table.values.get(code + 1)) {
                    (Some(low), Some(high)) => f64::from(high - low) * scale,
                    _ => 0.0,
                };
                gap(above).max(gap(above.saturating_sub(1)))
            }
        }
    }
}

/// After one step from the same numbers: each value by at most one step of its storage off, beside what f32
/// arithmetic explains, and all but a few by nothing else. What lies just beside a tie, or just beside the
/// number that chance compares it with, may go either way.
pub fn compare(what: &str, grid: &Grid, found: &[f32], exact: &[f64], misses: &mut Vec<String>) {
    let largest = exact.iter().fold(0.0f64, |a, x| a.max(x.abs()));
    let mut apart = 0;
    for (i, (found, exact)) in found.iter().zip(exact).enumerate() {
        let off = (f64::from(*found) - exact).abs();
        let arithmetic = 1e-5 * exact.abs() + 1e-6 * largest;
        let allowed = grid.step(i, *exact) * 1.01 + arithmetic;
        // NaN is a miss.
        let within = off <= allowed;
        if !within {
            misses.push(format!("{what}[{i}]: {found:e}, expected {exact:e}, allowed {allowed:e}"));
            return;
        }
        apart += usize::from(off > arithmetic);
    }
    if apart * 50 > found.len() + 49 {
        misses.push(format!("{what}: {apart} of {} values are apart", found.len()));
    }
}
