//! Timings of steps, each beside a *stream* that moves the same bytes and does nothing with them:
//! absolute figures depend on what else the machine does.

pub mod cpu;
pub mod gpu;

use std::time::{Duration, Instant};

use wgpu_optim::plan::Plan;
use wgpu_optim::{OptimizerConfig, TensorSpec};

use crate::error::Result;

/// What a step on the GPU passes over, for a stream to do the same.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    /// Words of parameters, and as many of gradients: half as many as there are parameters of 16 bits.
    pub elements: usize,
    /// Words of state for each.
    pub slots: usize,
    /// Whether gradients are read once more, ahead of the update.
    pub scans: bool,
    /// Whether everything is read once more, ahead of the update.
    pub measures: bool,
}

impl Footprint {
    pub fn of(plan: &Plan, elements: usize) -> Self {
        let variant = plan.variant_of(0);
        let size = variant.storage.params.bytes();
        let state: u64 = variant.formats().map(|format| u64::from(format.quad_words())).sum();
        // The scales of q8, a 64th of a word, are left out.
        let slots = (state / size) as usize;
        let elements = (elements as u64 * size / 4).max(1) as usize;
        Self { elements, slots, scans: plan.gradient.needs_scan(), measures: plan.measures() }
    }
}

/// Steps over so many words of parameters that are timed as one, so that short ones are not lost in the clock.
fn steps_at_once(words: usize) -> u32 {
    ((1usize << 22) / words).clamp(1, 32) as u32
}

/// Something that takes steps.
pub trait Subject {
    /// The seconds of a step of the optimizer.
    fn step(&mut self) -> Result<f64>;
    /// The seconds of its stream.
    fn stream(&mut self) -> Result<f64>;
    /// The host's microseconds for recording each step so far.
    fn recording(&self) -> &[f64];
    /// Bytes that a step moves.
    fn bytes_moved(&self) -> u64;
}

/// How often to measure.
#[derive(Debug, Clone, Copy)]
pub enum Runs {
    /// As many as fit in a while, but not too few.
    While(Duration),
    Exactly(usize),
}

impl Runs {
    const FEWEST: usize = 7;
    const MOST: usize = 101;

    fn goes_on(self, runs: usize, since: Instant) -> bool {
        match self {
            Self::Exactly(count) => runs < count,
            Self::While(time) => runs < Self::FEWEST || (runs < Self::MOST && since.elapsed() < time),
        }
    }
}

/// What was measured, as medians.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub runs: usize,
    pub bytes_moved: u64,
    pub step_s: f64,
    pub stream_s: f64,
    pub host_us: Option<f64>,
}

/// Measures step and stream in turns, so that whatever else the machine does meets both alike.
pub fn measure(subject: &mut dyn Subject, runs: Runs) -> Result<Timing> {
    let warm_up = Instant::now();
    loop {
        subject.step()?;
        subject.stream()?;
        if matches!(runs, Runs::Exactly(_)) || warm_up.elapsed() > Duration::from_millis(200) {
            break;
        }
    }
    let recorded = subject.recording().len();
    let (mut steps, mut streams) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while runs.goes_on(steps.len(), start) {
        steps.push(subject.step()?);
        streams.push(subject.stream()?);
    }
    let recording = &subject.recording()[recorded..];
    Ok(Timing {
        runs: steps.len(),
        bytes_moved: subject.bytes_moved(),
        step_s: median(&steps).unwrap_or(f64::NAN),
        stream_s: median(&streams).unwrap_or(f64::NAN),
        host_us: median(recording),
    })
}

/// The middle value, or the mean of the two there.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => None,
        0 => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}

/// Tensors that share the elements as evenly as can be.
pub fn specs(elements: usize, tensors: usize) -> Vec<TensorSpec> {
    let len = |i: usize| (elements / tensors + usize::from(i < elements % tensors)) as u64;
    (0..tensors).map(|i| TensorSpec::new(format!("tensor{i}"), [len(i)])).collect()
}

/// What a tensor holds, for a configuration and a stream alike.
fn values(count: usize, seed: u32) -> Vec<f32> {
    // Weyl's sequence: no value comes twice soon, and memory is no one page again and again.
    numbers(count, seed).collect()
}

fn numbers(count: usize, seed: u32) -> impl ExactSizeIterator<Item = f32> {
    // Past 2^32 it begins again.
    (0..count).map(move |i| (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed) as f32 / 2f32.powi(31) - 1.0)
}

/// What both backends need to begin.
#[derive(Debug, Clone)]
pub struct Case {
    pub config: OptimizerConfig,
    pub elements: usize,
    pub tensors: usize,
    /// On the GPU, each tensor in buffers of its own instead of one arena.
    pub own_buffers: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_tensor_of_more_than_32_bits_is_filled() {
        assert_eq!(numbers(1 << 32, 0).len(), 1 << 32);
    }

    #[test]
    fn tensors_share_all_elements() {
        let lens: Vec<_> = specs(10, 3).iter().map(|s| s.shape[0]).collect();
        assert_eq!(lens, [4, 3, 3]);
    }
}
