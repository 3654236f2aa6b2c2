//! The state of an optimizer outside it: by tensor and slot name, whatever the layout in memory.

pub mod checkpoint;
pub(crate) mod fed;
#[cfg(feature = "checkpoint")]
pub mod files;
pub(crate) mod health;
pub(crate) mod report;

pub use checkpoint::{Checkpoint, TensorParams};
pub use health::{Health, TensorHealth, Verdict};
pub use report::Report;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::config::loss_scale::{self, SavedScale};
use crate::config::schedule::PlateauState;
use crate::error::{Error, Result};
use crate::options::range::NON_NEGATIVE;
#[cfg(feature = "checkpoint")]
use crate::plan::ACCUMULATOR;
use crate::plan::Plan;
use crate::plan::rates::{RatesState, Saved};
use crate::storage::{Q8_BLOCK, SlotStorage, StateFormat};

/// State of a whole optimizer, as saved and as moved between backends.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState<F = f32> {
    /// Steps taken.
    pub steps_taken: u64,
    /// Steps skipped.
    pub steps_skipped: u64,
    /// Micro-batches that the next step has already.
    pub micro_batches: u64,
    /// The loss scale; 1 without one.
    pub loss_scale: f64,
    /// Whether it is one that moves, from which another that moves goes on.
    pub dynamic_scale: bool,
    /// Steps since the loss scale last changed.
    pub good_steps: u64,
    /// Steps from one averaging of the weights to the next, where it is known and they are averaged.
    pub ema_interval: Option<u64>,
    /// What a `plateau` schedule remembers.
    pub plateau: PlateauState,
    /// The configuration that it was made under, as [`OptimizerConfig::to_toml`](crate::config::OptimizerConfig::to_toml)
    /// writes it, where that is known. It is there to be compared, and does not decide how the state is loaded.
    pub config: Option<String>,
    /// Rates and other numbers that were set at run time; `None` where all are as configured.
    pub rates: Option<RatesState>,
    /// What `plateau` schedules of groups remember, by the groups' names or globs.
    pub group_plateaus: BTreeMap<String, PlateauState>,
    /// Whether the moving average lay in the parameters' place, and so the weights to train with in slot `ema`. Such a
    /// state can be looked at, and neither saved nor loaded: with the parameters beside it nothing would tell which is
    /// which.
    pub swapped: bool,
    /// The tensors that are not frozen, in the caller's order.
    pub tensors: Vec<TensorState<F>>,
}

/// State of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorState<F = f32> {
    /// The tensor's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The name of its rule.
    pub rule: String,
    /// Steps that it has taken.
    pub steps: u64,
    /// Σγ² of a rule that averages its iterates; 0 for others.
    pub weight_sum: f64,
    /// Its slots by name. Each has as many values as the tensor has elements, but for the means by row
    /// and column of `adafactor`.
    pub slots: Vec<(String, Vec<F>)>,
    /// How the slots are stored that are not in f32.
    pub storage: Vec<SlotStorage>,
}

#[cfg(feature = "checkpoint")]
impl OptimizerState {
    /// Takes the loss scale out of the sums of micro-batches.
    pub(crate) fn unscale_sums(&mut self) {
        if self.loss_scale == 1.0 {
            return;
        }
        let unscale = (1.0 / self.loss_scale) as f32;
        let slots = self.tensors.iter_mut().flat_map(|tensor| &mut tensor.slots);
        for (_, sum) in slots.filter(|(name, _)| name == ACCUMULATOR) {
            sum.iter_mut().for_each(|x| *x *= unscale);
        }
    }
}

impl<F> OptimizerState<F> {
    pub(crate) fn saved_scale(&self) -> SavedScale {
        SavedScale { scale: self.loss_scale, is_dynamic: self.dynamic_scale, good_steps: self.good_steps }
    }
}

impl<F> TensorState<F> {
    /// The scales that a slot's values were stored at, if they were in q8.
    pub fn scales(&self, slot: &str) -> Option<&[f32]> {
        let storage = self.storage.iter().find(|s| s.slot == slot && s.format == StateFormat::Q8)?;
        Some(&storage.scales)
    }
}

impl<F> Default for OptimizerState<F> {
    fn default() -> Self {
        Self {
            steps_taken: 0,
            steps_skipped: 0,
            micro_batches: 0,
            loss_scale: 1.0,
            dynamic_scale: false,
            good_steps: 0,
            ema_interval: None,
            plateau: PlateauState::default(),
            config: None,
            rates: None,
            group_plateaus: BTreeMap::new(),
            swapped: false,
            tensors: Vec::new(),
        }
    }
}

/// What is wrong with a state of which [`OptimizerState::swapped`] is true.
const SWAPPED: &str = "it was read while the moving average lay in the parameters' place; swap_ema once more first";

impl<F> OptimizerState<F> {
    /// Refuses what nobody could go on from.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn check_unswapped(&self) -> Result<()> {
        Error::of_state(self.swapped.then(|| SWAPPED.to_owned()).into_iter().collect())
    }

    /// What rates go on from.
    pub(crate) fn saved_rates(&self) -> Saved {
        Saved { set: self.rates.clone(), plateau: self.plateau, group_plateaus: self.group_plateaus.clone() }
    }

    /// Takes what rates go on from.
    pub(crate) fn with_rates(self, saved: Saved) -> Self {
        let Saved { set, plateau, group_plateaus } = saved;
        Self { rates: set, plateau, group_plateaus, ..self }
    }

    /// The tensors by name.
    pub(crate) fn by_name(&self) -> HashMap<&str, &TensorState<F>> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
    }

    /// The same state with its values in another number type.
    pub fn map<G>(&self, f: impl Fn(&F) -> G) -> OptimizerState<G> {
        let tensors = self.tensors.iter().map(|t| TensorState {
            name: t.name.clone(),
            shape: t.shape.clone(),
            rule: t.rule.clone(),
            steps: t.steps,
            weight_sum: t.weight_sum,
            slots: t.slots.iter().map(|(name, values)| (name.clone(), values.iter().map(&f).collect())).collect(),
            storage: t.storage.clone(),
        });
        OptimizerState {
            steps_taken: self.steps_taken,
            steps_skipped: self.steps_skipped,
            micro_batches: self.micro_batches,
            loss_scale: self.loss_scale,
            dynamic_scale: self.dynamic_scale,
            good_steps: self.good_steps,
            ema_interval: self.ema_interval,
            plateau: self.plateau,
            config: self.config.clone(),
            rates: self.rates.clone(),
            group_plateaus: self.group_plateaus.clone(),
            swapped: self.swapped,
            tensors: tensors.collect(),
        }
    }

    /// The sums of micro-batches, by tensor.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn sums(&self) -> impl Iterator<Item = &[F]> {
        let slots = self.tensors.iter().flat_map(|tensor| &tensor.slots);
        slots.filter(|(name, _)| name == ACCUMULATOR).map(|(_, values)| values.as_slice())
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorState<F>> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Checks that the state fits a plan: names, shapes, rules, slots, counts and rates.
    ///
    /// # Errors
    /// [`Error::State`] with every mismatch, not only the first.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let mut problems = self.problems_beside_tensors(plan);
        let mut known = HashMap::new();
        for tensor in &self.tensors {
            if known.insert(tensor.name.as_str(), tensor).is_some() {
                problems.push(format!("{:?} is given twice", tensor.name));
            }
        }
        for index in plan.kept_tensors() {
            match known.remove(plan.tensors[index].spec.name.as_str()) {
                Some(tensor) => {
                    problems.extend(tensor.problems_beside_slots(plan, index, self.steps_taken));
                    problems.extend(tensor.problems_of_slots(plan, index));
                }
                None => problems.push(format!("{:?} is missing", plan.tensors[index].spec.name)),
            }
        }
        let mut extra: Vec<_> = known.into_keys().collect();
        extra.sort_unstable();
        problems.extend(extra.into_iter().map(|name| format!("{name:?} is not among the optimizer's tensors")));
        Error::of_state(problems)
    }

    /// What does not fit of the counts, the loss scale and the rates.
    pub(crate) fn problems_beside_tensors(&self, plan: &Plan) -> Vec<String> {
        let mut problems: Vec<_> = self.swapped.then(|| SWAPPED.to_owned()).into_iter().collect();
        // The GPU counts in 32 bits.
        let counts = [
            ("steps taken", self.steps_taken),
            ("steps skipped", self.steps_skipped),
            ("steps since the loss scale changed", self.good_steps),
        ];
        for (what, count) in counts {
            if count > u64::from(u32::MAX) {
                problems.push(format!("{count} {what} are more than 2^32"));
            }
        }
        if self.micro_batches >= plan.gradient.accumulate {
            let (has, most) = (self.micro_batches, plan.gradient.accumulate - 1);
            problems.push(format!("{has} micro-batches are under way, at most {most} can be"));
        }
        if plan.gradient.loss_scale.is_none() && self.loss_scale != 1.0 {
            problems.push(format!("it has a loss scale of {}, and the configuration none", self.loss_scale));
        }
        if plan.gradient.loss_scale.is_some() && !loss_scale::RANGE.contains(&self.loss_scale) {
            problems.push(format!("it has a loss scale of {}, must be from 2^-64 to 2^64", self.loss_scale));
        }
        for plateau in std::iter::once(&self.plateau).chain(self.group_plateaus.values()) {
            if !(0.0..=1.0).contains(&plateau.factor) {
                problems.push(format!("it has a plateau factor of {:?}, must be from 0 to 1", plateau.factor));
            }
            if plateau.best.is_some_and(f64::is_nan) {
                problems.push("its plateau's best figure is NaN".to_owned());
            }
        }
        problems.extend(plan.ema.as_ref().and_then(|ema| ema.problem_after(self.ema_interval, self.steps_taken)));
        if let Some(rates) = &self.rates {
            problems.extend(problems_of_rates(rates, plan));
        }
        problems
    }
}

fn problems_of_rates(rates: &RatesState, plan: &Plan) -> Vec<String> {
    let patterns = |groups: &mut dyn Iterator<Item = Option<&str>>| {
        groups.map(|p| p.unwrap_or("all others").to_owned()).collect::<Vec<_>>()
    };
    let saved = patterns(&mut rates.groups.iter().map(|g| g.pattern.as_deref()));
    let planned = patterns(&mut plan.groups.iter().map(|g| g.label()));
    if saved != planned {
        return vec![format!("rates were set at run time for groups {saved:?}, and there are {planned:?}")];
    }
    let numbers = rates.groups.iter().flat_map(|g| [("lr", g.lr), ("weight_decay", g.weight_decay)]);
    let rates_set = numbers.chain([("lr", rates.lr)]).map(|(key, value)| NON_NEGATIVE.check(key, value));
    let checked = rates_set.map(|checked| checked.map_err(|e| e.to_string()));
    let of_schedule = plan.schedule.check_tables("schedule", "optimizer", rates.lr).map_err(|e| e.to_string());
    let of_groups = rates.groups.iter().zip(&plan.groups).map(|(state, group)| state.check(group));
    let of_groups = of_groups.map(|checked| checked.map_err(|e| e.to_string()));
    let problems = checked.chain([of_schedule]).chain(of_groups).filter_map(Result::err);
    let ratios = rates.groups.iter().filter_map(|g| g.ratio).filter(|ratio| !(0.0..=f64::MAX).contains(ratio));
    let ratios = ratios.map(|ratio| format!("ratio: must be a finite number, at least 0, got {ratio:?}"));
    problems.chain(ratios).map(|problem| format!("rates set at run time: {problem}")).collect()
}

impl<F> TensorState<F> {
    /// What does not fit of shape, rule and count.
    pub(crate) fn problems_beside_slots(&self, plan: &Plan, index: usize, steps_taken: u64) -> Vec<String> {
        let mut problems = Vec::new();
        let (name, planned) = (&self.name, &plan.tensors[index]);
        if self.shape != planned.spec.shape {
            problems.push(format!("{name:?} has shape {:?}, expected {:?}", self.shape, planned.spec.shape));
        }
        let rule = plan.group_of(index).rule.name();
        if self.rule != rule {
            problems.push(format!("{name:?} was saved by rule {:?}, expected {rule:?}", self.rule));
        }
        if self.steps > steps_taken {
            problems.push(format!("{name:?} took {} steps of {steps_taken} in all", self.steps));
        }
        let wants_sum = plan.variant_of(index).averages() && self.steps > 0;
        if !(self.weight_sum.is_finite() && self.weight_sum >= 0.0) || (self.weight_sum > 0.0 && !wants_sum) {
            problems.push(format!("{name:?} has a weight_sum of {}", self.weight_sum));
        }
        problems
    }

    fn problems_of_slots(&self, plan: &Plan, index: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let name = &self.name;
        let kept = plan.slots_of(index);
        for slot in &kept {
            let wants = slot.elements();
            let slot = slot.name;
            match self.slots.iter().find(|(n, _)| n == slot) {
                None => problems.push(format!("{name:?} lacks slot {slot:?}")),
                Some((_, values)) if values.len() as u64 != wants => {
                    let has = values.len();
                    problems.push(format!("{name:?} has {has} values in slot {slot:?}, expected {wants}"));
                }
                Some(_) => {}
            }
        }
        let unknown = self.slots.iter().filter(|(n, _)| kept.iter().all(|slot| slot.name != n));
        problems.extend(unknown.map(|(slot, _)| format!("{name:?} has an unknown slot {slot:?}")));
        let mut seen = HashSet::new();
        let twice = self.slots.iter().filter(|(slot, _)| !seen.insert(slot.as_str()));
        problems.extend(twice.map(|(slot, _)| format!("{name:?} has slot {slot:?} twice")));
        for storage in self.storage.iter().filter(|storage| storage.format == StateFormat::Q8) {
            let values =
                self.slots.iter().find(|(slot, _)| *slot == storage.slot).map_or(0, |(_, values)| values.len());
            let (has, wants) = (storage.scales.len(), values.div_ceil(Q8_BLOCK as usize));
            if has != wants {
                let slot = &storage.slot;
                problems.push(format!("{name:?} has {has} scales of slot {slot:?}, expected {wants}"));
            }
        }
        problems
    }
}
