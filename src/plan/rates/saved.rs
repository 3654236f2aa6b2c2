//! What of rates and numbers is saved with a state, and gone on from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Rates;
use crate::config::numbers;
use crate::config::schedule::PlateauState;
use crate::error::Result;
use crate::options::OptionValue;
use crate::plan::{Plan, PlannedGroup};

/// Rates as they can be set at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct RatesState {
    /// `[optimizer].lr`.
    pub lr: f64,
    /// The optimizer's own rule and the configuration's groups.
    pub groups: Vec<GroupState>,
}

/// Rates and other numbers of a group as they can be set at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupState {
    /// The group's name, or else its glob; `None` for the optimizer's own rule.
    pub pattern: Option<String>,
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Weight decay, of the kind the rule wants, before a schedule of its own.
    pub weight_decay: f64,
    /// The ratio to the base rate that comes back with it, while both are 0.
    pub ratio: Option<f64>,
    /// Other options that were set.
    pub options: BTreeMap<String, OptionValue>,
}

/// All that is saved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saved {
    /// Where anything was set.
    pub set: Option<RatesState>,
    /// What a `plateau` schedule of `[schedule]` remembers.
    pub plateau: PlateauState,
    /// What those of groups remember, by the groups' names or globs.
    pub group_plateaus: BTreeMap<String, PlateauState>,
}

impl GroupState {
    /// Whether a group can go on from it.
    ///
    /// # Errors
    /// Its schedules cannot start from what was set, or its rule does not take it.
    pub(crate) fn check(&self, group: &PlannedGroup) -> Result<()> {
        let table = self.pattern.as_ref().map_or("optimizer".to_owned(), |p| format!("groups.{p:?}"));
        if let Some(own) = &group.schedule {
            own.check_tables(&format!("{table}.schedule"), &table, self.lr)?;
        }
        let mut rule = group.rule.clone();
        for (key, value) in &self.options {
            rule = numbers::changed(rule.as_ref(), key, value).map_err(|e| e.within(&table))?;
        }
        let schedules = format!("{table}.schedules");
        let mut all = group.schedules.iter();
        all.try_for_each(|(key, own)| numbers::check_schedule(rule.as_ref(), key, own, &schedules, &table))
    }
}

impl Rates {
    /// The rates to go on with where `next` takes the place of `plan`. What was set at run time stays where the
    /// groups are the same; all else, the schedules too, is what the new configuration asks for.
    ///
    /// # Errors
    /// A new schedule cannot start from the rate or the number that was set.
    pub(crate) fn under(&self, plan: &Plan, next: &Plan) -> Result<Self> {
        let mut saved = self.saved();
        saved.set = saved.set.filter(|_| plan.same_groups(next));
        if let Some(set) = &saved.set {
            next.schedule.check_tables("schedule", "optimizer", set.lr)?;
            next.groups.iter().zip(&set.groups).try_for_each(|(group, state)| state.check(group))?;
        }
        let mut rates = Self::new(next);
        rates.resume(&saved);
        Ok(rates)
    }

    /// The rates, if any was set at run time.
    pub fn state(&self) -> Option<RatesState> {
        let mut state = RatesState { lr: self.base, ..self.configured.clone() };
        for (index, state) in state.groups.iter_mut().enumerate() {
            let group = &self.groups[index];
            (state.lr, state.weight_decay, state.ratio) = (group.lr, group.decay.lambda(), self.ratios[index]);
            state.options.clone_from(&self.numbers[index].set);
        }
        (state != self.configured).then_some(state)
    }

    /// All that a state keeps of them.
    pub(crate) fn saved(&self) -> Saved {
        let own = self.numbers.iter().zip(&self.configured.groups);
        let remembered = own.filter_map(|(numbers, group)| {
            let plateau = numbers.schedule.as_ref().and_then(|own| own.remembered())?;
            Some((group.pattern.clone()?, plateau))
        });
        Saved { set: self.state(), plateau: self.schedule.plateau, group_plateaus: remembered.collect() }
    }

    /// Goes on from rates that were set at run time, or else from those of the configuration, and, under
    /// `plateau` schedules, from what they remembered.
    pub(crate) fn resume(&mut self, saved: &Saved) {
        let state = saved.set.as_ref().unwrap_or(&self.configured);
        self.base = state.lr;
        let all = Arc::make_mut(&mut self.numbers);
        for (index, state) in state.groups.iter().enumerate() {
            let group = &mut self.groups[index];
            group.lr = state.lr;
            group.decay = group.decay.with_lambda(state.weight_decay);
            self.ratios[index] = state.ratio.filter(|_| self.base == 0.0 && state.lr == 0.0);
            let label = self.configured.groups[index].pattern.as_ref();
            let remembered = label.and_then(|label| saved.group_plateaus.get(label));
            all[index].resume(&state.options, remembered.copied().unwrap_or_default());
        }
        self.schedule.resume(saved.plateau);
        self.touch_all();
    }
}
