//! Stretches of tensors for the rules' kernels, widened from how they are stored and narrowed again.

use super::Dense;
use super::stored::StoredChunk;
use super::sums::Squares;
use crate::lines::Lines;
use crate::plan::Plan;
use crate::rule::float::Float;
use crate::rule::hyper::Scalars;
use crate::rule::kernel::{Block, ByLine, CpuFloat, Factors, UpdateSettings};
use crate::storage::{Format, Noise, Rounding, Storage, stochastic_bf16_bits};

/// Elements that one task updates: long enough to be worth a task, short enough to spread.
pub const TASK: usize = 1 << 15;

/// What each tensor's update needs to know.
pub struct TensorStep<F> {
    pub scalars: Scalars,
    pub settings: UpdateSettings,
    /// Random bits of what is rounded by chance.
    pub noise: Noise,
    /// The factor of each unit's gradient.
    pub units: Option<(Lines, Vec<F>)>,
    /// The mean of each matrix's rows.
    pub means: Vec<F>,
}

/// A stretch of one tensor.
pub struct Task<'a, F> {
    /// The tensor's place among the dense ones and in the plan.
    pub index: usize,
    pub tensor: usize,
    params: &'a mut [F],
    master: Option<&'a mut [F]>,
    gradients: &'a [F],
    slots: Vec<StoredChunk<'a, F>>,
    active: &'a [usize],
    scalars: &'a Scalars,
    settings: UpdateSettings,
    by_line: ByLine<'a, F>,
    rounds: Rounds,
    /// The place of the rule's first slot among those kept.
    first_slot: u32,
}

/// What a task is run for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// To change what it serves, and see what that did to the weights if it `watches`.
    Update { watches: bool },
    /// To change nothing.
    Measure,
}

/// What an update did to weights, before they were rounded to how they are stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    /// Of the weights before.
    pub weights: Squares,
    /// Of what they moved.
    pub change: Squares,
}

impl Change {
    fn of<F: Float>(before: &[F], after: &[F]) -> Self {
        Self {
            weights: Squares::of(before.iter().map(|p| p.f64())),
            change: Squares::of(before.iter().zip(after).map(|(before, after)| after.f64() - before.f64())),
        }
    }

    /// Both.
    pub fn with(self, other: Self) -> Self {
        Self { weights: self.weights.with(other.weights), change: self.change.with(other.change) }
    }
}

/// How weights become parameters.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    pub storage: Storage,
    pub noise: Noise,
    /// The first element's place in its tensor.
    pub first: u64,
}

/// The value as a format holds it.
pub fn round<F: Float>(format: Format, x: F) -> F {
    match format {
        Format::F32 => x,
        Format::F16 | Format::Bf16 => F::of(format.round(x.f64() as f32).into()),
    }
}

impl Rounds {
    fn narrows(&self) -> bool {
        self.storage.params != Format::F32
    }

    /// Writes weights to parameters.
    pub fn write<F: Float>(&self, weights: &[F], params: &mut [F]) {
        for ((param, weight), element) in params.iter_mut().zip(weights).zip(self.first..) {
            *param = match self.storage.rounding {
                Rounding::Nearest => round(self.storage.params, *weight),
                Rounding::Stochastic => {
                    let bits = stochastic_bf16_bits(weight.f64() as f32, self.noise.bits(element, Noise::PARAMS));
                    F::of(Format::Bf16.value(bits.into()).into())
                }
            };
        }
    }
}

/// Takes parameters into their f32 copy that the caller has changed since it was written.
pub fn refresh<F: Float>(format: Format, params: &[F], master: &mut [F]) {
    for (copy, param) in master.iter_mut().zip(params) {
        let param = round(format, *param);
        if round(format, *copy) != param {
            *copy = param;
        }
    }
}

impl<F: CpuFloat> Dense<'_, F> {
    /// Takes up what the caller has written to the parameters, as their format holds it.
    pub fn take_written_params(&mut self, plan: &Plan) {
        let format = plan.formats_of(self.tensor)[0];
        match &mut self.master {
            Some(master) => refresh(format, self.params, master),
            None if format != Format::F32 => self.params.iter_mut().for_each(|p| *p = round(format, *p)),
            None => {}
        }
    }
}

impl<F: CpuFloat> Task<'_, F> {
    /// Runs a kernel over the stretch, and gives what it did to the weights if that is watched.
    pub fn run<R>(self, purpose: Purpose, kernel: impl FnOnce(Block<'_, F>) -> R) -> (R, Change) {
        let Self { params, mut master, gradients, mut slots, active, scalars, settings, by_line, rounds, .. } = self;
        let first_slot = self.first_slot;
        let mut copy: Vec<F> = if rounds.narrows() && master.is_none() { params.to_vec() } else { Vec::new() };
        let mut wide: Vec<_> = slots.iter().map(StoredChunk::widened).collect();
        let values = slots.iter_mut().zip(&mut wide).map(|(slot, wide)| match (slot, wide) {
            (StoredChunk::Wide(values), _) => &mut **values,
            (_, Some(values)) => values.as_mut_slice(),
            (_, None) => &mut [],
        });
        let weights: &mut [F] = match &mut master {
            Some(master) => master,
            None if rounds.narrows() => &mut copy,
            None => &mut *params,
        };
        let slots_of = values.collect();
        let before = matches!(purpose, Purpose::Update { watches: true }).then(|| weights.to_vec());
        let params_of = &mut *weights;
        let outcome =
            kernel(Block { params: params_of, gradients, slots: slots_of, active, scalars, settings, by_line });
        let change = before.map_or(Change::default(), |before| Change::of(&before, weights));
        if matches!(purpose, Purpose::Measure) {
            return (outcome, change);
        }
        if rounds.narrows() {
            rounds.write(master.as_deref().unwrap_or(&copy), params);
        }
        for ((slot, wide), place) in slots.iter_mut().zip(wide).zip(first_slot..) {
            if let Some(values) = wide {
                slot.narrow(&values, rounds.noise, Noise::SLOTS + place, rounds.first);
            }
        }
        (outcome, change)
    }
}

/// The stretches of all tensors.
pub fn tasks<'a, F: CpuFloat>(
    dense: &'a mut [Dense<'_, F>],
    plan: &'a Plan,
    steps: &'a [TensorStep<F>],
) -> Vec<Task<'a, F>> {
    let mut tasks = Vec::new();
    for (index, (d, step)) in dense.iter_mut().zip(steps).enumerate() {
        let variant = plan.variant_of(d.tensor);
        let mut slots: Vec<_> = d.slots.iter_mut().map(|s| s.chunks_mut(TASK)).collect();
        let mut master = d.master.as_mut().map(|master| master.chunks_mut(TASK));
        let gradient = d.accumulated.as_ref().map_or(d.gradient, |sum| sum.as_slice());
        let factors = match (&*d.factors, plan.factored(d.tensor)) {
            ([rows, columns], Some(matrices)) => Some(Factors { matrices, rows, columns, means: &step.means }),
            _ => None,
        };
        let by_line = ByLine {
            first: 0,
            units: step.units.as_ref().map(|(lines, factors)| (*lines, factors.as_slice())),
            mean_square: variant.mean_square(),
            factors,
        };
        let chunks = d.params.chunks_mut(TASK).zip(gradient.chunks(TASK));
        for ((params, gradients), first) in chunks.zip((0u64..).step_by(TASK)) {
            tasks.push(Task {
                index,
                tensor: d.tensor,
                params,
                master: master.as_mut().and_then(Iterator::next),
                gradients,
                slots: slots.iter_mut().filter_map(Iterator::next).collect(),
                active: variant.active.as_slice(),
                scalars: &step.scalars,
                settings: step.settings,
                by_line: ByLine { first, ..by_line },
                rounds: Rounds { storage: variant.storage, noise: step.noise, first },
                first_slot: variant.engine.len() as u32,
            });
        }
    }
    tasks
}
