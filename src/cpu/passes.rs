//! The passes of a step over dense memory, in parallel where there are threads. What is summed is
//! summed in fixed order, so that results do not depend on their number.

use std::collections::HashMap;

use super::Dense;
use super::parallel::map;
use super::sums::{Sizes, Squares, Wanted, sums};
use super::tasks::{Change, Purpose, Rounds, TASK, TensorStep, tasks};
use crate::config::OnNonfinite;
use crate::config::schedule::{LARGEST_LR, held};
use crate::plan::rates::{Decays, Rates};
use crate::plan::{Plan, Stepping};
use crate::rule::hyper::Scalars;
use crate::rule::kernel::{CpuFloat, Measure, UpdateSettings};
use crate::rule::maths;
use crate::storage::{Format, Noise};

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Elements that are not finite.
    pub nonfinite: u64,
    /// Of each tensor, in the order of the dense tensors.
    tensors: Vec<Sizes>,
}

impl Scan {
    /// The norm of all value-clipped gradients, where something depends on it, else 0.
    pub fn norm(&self) -> f64 {
        self.tensors.iter().fold(Squares::default(), |all, sizes| all.with(sizes.squares)).root()
    }
}

/// What holds for all of a step.
#[derive(Debug, Clone, Copy)]
pub struct Scales {
    /// Steps taken before, by which schedules of rates go.
    pub taken: u64,
    /// Of the gradients, for their global norm.
    pub coefficient: f64,
    /// Of the gradients as they are read.
    pub unscale: f64,
}

/// What holds for every tensor of a step.
fn settings(plan: &Plan) -> UpdateSettings {
    UpdateSettings {
        clip_value: plan.gradient.clip_value,
        zero_nonfinite: plan.gradient.on_nonfinite == OnNonfinite::Zero,
        weight_clip: plan.weights.clip_value,
        ..UpdateSettings::default()
    }
}

/// Adds gradients to those of earlier micro-batches, each without the loss scale that it has. Gives the number of elements
/// that are not finite, where such are left out.
pub fn accumulate<F: CpuFloat>(dense: &mut [Dense<'_, F>], plan: &Plan, unscale: f64) -> u64 {
    let zeroes = plan.gradient.on_nonfinite == OnNonfinite::Zero;
    let unscale = F::of(unscale);
    let mut left_out = 0;
    for d in dense {
        let Some(sum) = &mut d.accumulated else { continue };
        let chunks: Vec<_> = sum.chunks_mut(TASK).zip(d.gradient.chunks(TASK)).collect();
        let counts = map(chunks, |(sum, gradient)| {
            let mut left_out = 0u64;
            for (sum, &g) in sum.iter_mut().zip(gradient) {
                if g.is_finite() || !zeroes {
                    let total = *sum + g * unscale;
                    // What is finite stays so.
                    let overflows = total.is_infinite() && sum.is_finite() && g.is_finite();
                    *sum = if overflows { F::max_value().copysign(total) } else { total };
                } else {
                    left_out += 1;
                }
            }
            left_out
        });
        left_out += counts.iter().sum::<u64>();
    }
    left_out
}

/// Starts the next sum of micro-batches.
pub fn clear_accumulated<F: CpuFloat>(dense: &mut [Dense<'_, F>]) {
    for sum in dense.iter_mut().filter_map(|d| d.accumulated.as_mut()) {
        sum.fill(F::zero());
    }
}

/// Reads every gradient.
pub fn scan<F: CpuFloat>(dense: &[Dense<'_, F>], plan: &Plan, unscale: f64) -> Scan {
    let gradients: Vec<&[F]> = dense.iter().map(Dense::whole_gradient).collect();
    let wanted = Wanted {
        nonfinite: plan.gradient.on_nonfinite != OnNonfinite::Propagate,
        sizes: plan.gradient.needs_factors(),
    };
    let (mut tensors, nonfinite) = sums(&gradients, wanted, &UpdateSettings { unscale, ..settings(plan) });
    // No norm counts what none limits.
    let spared = tensors.iter_mut().zip(dense).filter(|(_, d)| !plan.is_clipped(d.tensor));
    spared.for_each(|(sizes, _)| *sizes = Sizes::default());
    Scan { nonfinite, tensors }
}

/// The numbers of each tensor's update. Counts the step.
pub fn prepare<F: CpuFloat>(
    dense: &mut [Dense<'_, F>],
    plan: &Plan,
    rates: &Rates,
    scales: Scales,
    scan: &Scan,
) -> Vec<TensorStep<F>> {
    // Tensors of a group mostly have the same count, and a rule's scalars take powers.
    let mut known: HashMap<(usize, u64), (Scalars, Decays)> = HashMap::new();
    let factors: Vec<f64> = (0..plan.groups.len()).map(|group| rates.factor_of(group, scales.taken)).collect();
    let mut step = |(index, d): (usize, &mut Dense<'_, F>)| {
        d.take_written_params(plan);
        let group = plan.tensors[d.tensor].group;
        let numbers = || (rates.scalars(group, *d.steps), rates.decays_at(group, *d.steps));
        let (scalars, decays) = *known.entry((group, *d.steps)).or_insert_with(numbers);
        let rate = rates.groups()[group];
        let lr = rate.step_lr(factors[group]);
        let sizes = scan.tensors.get(index).copied().unwrap_or_default();
        let own = if !plan.is_clipped(d.tensor) {
            1.0
        } else if plan.gradient.by_tensor() {
            plan.gradient.tensor_coefficient(sizes.squares.root(), sizes.largest)
        } else {
            scales.coefficient
        };
        let noise = Noise { key: plan.noise_key(d.tensor), steps: *d.steps as u32 };
        let settings = UpdateSettings {
            lr,
            coupled: decays.coupled,
            lr_decoupled: held(lr * decays.decoupled),
            in_ratio: decays.in_ratio,
            sign: rate.sign,
            elements: plan.tensors[d.tensor].elements as f64,
            any_gradient: plan.groups[group].rule.takes_any_gradient(),
            unscale: scales.unscale,
            coefficient: own,
            share: plan.variant_of(d.tensor).averages().then(|| share(d.weight_sum, lr * scalars[0])),
            noise: plan.noise.as_ref().map(|n| (Noise { key: plan.normal_key(d.tensor), ..noise }, n.root())),
            ..settings(plan)
        };
        TensorStep { scalars, settings, noise, units: None, means: Vec::new() }
    };
    dense.iter_mut().enumerate().map(&mut step).collect()
}

/// The largest γ that counts, `LARGEST_GAMMA` of `shaders/prepare.wgsl`.
const LARGEST_GAMMA: f64 = (1u64 << 60) as f64;

/// The share of a step of size γ in the average of the iterates, γ² / Σγ²; adds it to the sum, which f32 holds.
fn share(sum: &mut f64, gamma: f64) -> f64 {
    let gamma = gamma.min(LARGEST_GAMMA);
    *sum = (*sum).min(LARGEST_LR - gamma * gamma) + gamma * gamma;
    if *sum == 0.0 { 0.0 } else { gamma * gamma / *sum }
}

/// Updates parameters and state. If it `watches`, gives for each tensor what that did to the weights.
pub fn update<F: CpuFloat>(
    dense: &mut [Dense<'_, F>],
    plan: &Plan,
    steps: Vec<TensorStep<F>>,
    watches: bool,
) -> Vec<Change> {
    let tasks = tasks(dense, plan, &steps);
    let parts = map(tasks, |task| {
        let rule = plan.group_of(task.tensor).rule.as_ref();
        (task.index, task.run(Purpose::Update { watches }, |block| F::update(rule, block)).1)
    });
    let mut changes = vec![Change::default(); dense.len()];
    for (index, part) in parts {
        changes[index] = changes[index].with(part);
    }
    for d in dense {
        *d.steps += 1;
    }
    changes
}

/// Finds what ratios and masks need to know of the update.
pub fn measure<F: CpuFloat>(dense: &mut [Dense<'_, F>], plan: &Plan, steps: &mut [TensorStep<F>]) {
    let measured = map(tasks(dense, plan, steps), |task| {
        let (index, rule) = (task.index, plan.group_of(task.tensor).rule.as_ref());
        let wanted = plan.variant_of(task.tensor).measures();
        (index, if wanted { task.run(Purpose::Measure, |block| F::measure(rule, block)).0 } else { Measure::default() })
    });
    let mut totals = vec![Measure::default(); dense.len()];
    for (index, part) in measured {
        let total = &mut totals[index];
        total.params += part.params;
        total.update += part.update;
        total.kept += part.kept;
    }
    for ((d, step), total) in dense.iter().zip(steps).zip(totals) {
        match plan.variant_of(d.tensor).stepping {
            Stepping::Plain | Stepping::Averaged => {}
            Stepping::Ratio => step.settings.norms = Some([total.params.sqrt(), total.update.sqrt()]),
            Stepping::Cautious => {
                step.settings.cautious = Some(plan.tensors[d.tensor].elements as f64 / (total.kept as f64 + 1.0));
            }
        }
    }
}

/// Scales tensors that exceed a limit of their norm or largest magnitude.
pub fn limit<F: CpuFloat>(dense: &mut [Dense<'_, F>], plan: &Plan) {
    if plan.weights.tensor_limit().is_none() {
        return;
    }
    let weights: Vec<&[F]> = dense.iter().map(Dense::weights).collect();
    let plain = UpdateSettings { clip_value: None, zero_nonfinite: false, ..settings(plan) };
    let wanted = Wanted { nonfinite: false, sizes: true };
    let (totals, _) = sums(&weights, wanted, &plain);
    for (d, Sizes { squares, largest }) in dense.iter_mut().zip(totals) {
        let factor = plan.weights.factor(squares.root(), largest);
        if factor == 1.0 {
            continue;
        }
        let factor = F::of(factor);
        let scale = |chunk: &mut [F]| chunk.iter_mut().for_each(|p| *p = *p * factor);
        let storage = plan.variant_of(d.tensor).storage;
        // The step is counted by now.
        let noise = Noise { key: plan.noise_key(d.tensor), steps: (*d.steps - 1) as u32 }.of_limit();
        let weights = d.master.as_mut().map_or(&mut *d.params, |master| master.as_mut_slice());
        map(weights.chunks_mut(TASK).collect(), scale);
        if storage.params != Format::F32 {
            let copy = weights.to_vec();
            Rounds { storage, noise, first: 0 }.write(&copy, d.params);
        }
    }
}

/// Averages the weights over the steps.
pub fn average<F: CpuFloat>(dense: &mut [Dense<'_, F>], plan: &Plan) {
    let Some(config) = &plan.ema else { return };
    for d in dense {
        let kept = config.kept(*d.steps);
        let [decay, weight] = [kept, 1.0 - kept].map(F::of);
        let Dense { ema, params, master, .. } = d;
        let Some(ema) = ema.as_mut().filter(|_| weight != F::zero()) else { continue };
        let weights = master.as_deref().map_or(&**params, Vec::as_slice);
        let chunks: Vec<_> = ema.chunks_mut(TASK).zip(weights.chunks(TASK)).collect();
        map(chunks, |(ema, params)| {
            // Rows that joined the tensor after its last averaging have none.
            let next = |a: F, p: F| if a.is_nan() { p } else { maths::average_wide(a, p, decay, weight) };
            ema.iter_mut().zip(params).for_each(|(a, p)| *a = next(*a, *p));
        });
    }
}
