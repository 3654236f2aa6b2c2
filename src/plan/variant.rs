//! Pieces of code: a rule with its compile-time options, and how its direction becomes a step.

use super::slots::{ACCUMULATOR, EMA, MASTER};
use crate::config::{CommonOptions, OptimizerConfig};
use crate::rule::{Reduction, Rule, Slot};
use crate::storage::{StateFormat, Storage};

/// A rule's code with its compile-time options. Groups that differ in numbers only share it, and so
/// share a dispatch.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Variant {
    /// A rule of this variant; its numbers are of no account.
    pub rule: Box<dyn Rule>,
    /// Slots that the engine keeps for itself, before the rule's.
    pub engine: Vec<Slot>,
    /// All slots that the rule's code names.
    pub slots: Vec<Slot>,
    /// Which of them are kept.
    pub active: Vec<usize>,
    /// How the direction becomes a step.
    pub stepping: Stepping,
    /// Whether the mean square is kept by rows and columns.
    pub factored: bool,
    /// How its tensors are stored.
    pub storage: Storage,
    /// Whether noise follows the step.
    pub noisy: bool,
}

/// How a direction becomes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepping {
    /// By the learning rate.
    Plain,
    /// By a ratio of the norms of parameters and update, tensor by tensor.
    Ratio,
    /// Where it agrees with the gradient in sign.
    Cautious,
    /// As the rule makes of its share in the average of the iterates.
    Averaged,
}

/// What makes a piece of code.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    /// The rule with its compile-time options.
    pub rule: &'a dyn Rule,
    /// Options that every rule has.
    pub common: &'a CommonOptions,
    /// How its tensors are stored.
    pub storage: Storage,
    /// Whether the mean square is kept by rows and columns.
    pub factored: bool,
}

impl Stepping {
    fn of(rule: &dyn Rule, common: &CommonOptions) -> Self {
        match rule.reduction() {
            Reduction::UpdateNorm => Self::Ratio,
            Reduction::Average => Self::Averaged,
            Reduction::None if common.cautious => Self::Cautious,
            Reduction::None => Self::Plain,
        }
    }
}

impl Variant {
    /// The code of that rule with those options.
    pub(crate) fn of(code: Code<'_>, config: &OptimizerConfig) -> Self {
        let Code { rule, common, storage, factored } = code;
        let slots = rule.slots();
        let kept = |slot: &Slot| slot.active && !(factored && slot.mean_square);
        let active = (0..slots.len()).filter(|i| kept(&slots[*i])).collect();
        let accumulator = config.gradient.accumulates().then_some(Slot::signed(ACCUMULATOR));
        let ema = config.ema.is_some().then_some(Slot::signed(EMA).follows_weights());
        let master = storage.master.then_some(Slot::signed(MASTER));
        let engine = accumulator.into_iter().chain(ema).chain(master).collect();
        let (rule, stepping, noisy) = (rule.boxed(), Stepping::of(rule, common), config.noise.is_some());
        Self { rule, engine, slots, active, stepping, factored, storage, noisy }
    }

    pub(super) fn serves(&self, code: Code<'_>) -> bool {
        let Code { rule, common, storage, factored } = code;
        let slots = rule.slots();
        self.rule.name() == rule.name()
            && self.factored == factored
            && self.storage == storage
            && self.stepping == Stepping::of(rule, common)
            && self.rule.wgsl() == rule.wgsl()
            && self.rule.constants() == rule.constants()
            && self.rule.takes_any_gradient() == rule.takes_any_gradient()
            && self.slots.iter().map(code_of).eq(slots.iter().map(code_of))
    }

    /// Whether the update must be measured before it is applied.
    pub fn measures(&self) -> bool {
        matches!(self.stepping, Stepping::Ratio | Stepping::Cautious)
    }

    /// The slot of the mean square, if the rule has one.
    pub(crate) fn mean_square(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.mean_square && slot.active)
    }

    /// Whether the rule averages its iterates.
    pub fn averages(&self) -> bool {
        self.stepping == Stepping::Averaged
    }

    /// The slots that are kept, in the order of the state's memory.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Slot> {
        self.engine.iter().chain(self.active.iter().map(|i| &self.slots[*i]))
    }

    /// The place of a slot of the engine's own among those kept.
    pub(crate) fn engine_slot(&self, name: &str) -> Option<usize> {
        self.engine.iter().position(|slot| slot.name == name)
    }

    /// How each kept slot is stored. The engine's own keep f32.
    pub fn formats(&self) -> impl Iterator<Item = StateFormat> {
        let engine = self.engine.iter().map(|_| StateFormat::F32);
        let rule = self.active.iter().map(|i| match self.slots[*i].compressible {
            true => self.storage.state,
            false => StateFormat::F32,
        });
        engine.chain(rule)
    }

    /// How many slots are kept.
    pub(crate) fn kept_count(&self) -> usize {
        self.engine.len() + self.active.len()
    }
}

/// What of a slot is code.
fn code_of(slot: &Slot) -> (&'static str, bool, bool, bool) {
    (slot.name, slot.active, slot.signed, slot.compressible)
}
