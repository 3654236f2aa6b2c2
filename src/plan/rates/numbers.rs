//! Numbers of a group beside its rate and decay: each has a value, may have a schedule, and can be set.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::running::Running;
use super::{Decays, Rates};
use crate::config::numbers;
use crate::config::schedule::{PlateauState, Schedule};
use crate::error::Result;
use crate::options::{OptionError, OptionValue};
use crate::plan::PlannedGroup;
use crate::rule::Rule;
use crate::rule::hyper::Scalars;

/// What of a group can change beside its rate and its decay.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    /// The rule with what was set.
    pub rule: Box<dyn Rule>,
    configured: Box<dyn Rule>,
    /// Whether it has a weight decay, be it 0.
    pub decays: bool,
    /// Of the rate, if it is not under `[schedule]`.
    pub schedule: Option<Running>,
    /// Of other numbers.
    schedules: BTreeMap<String, Schedule>,
    /// Options that were set.
    pub set: BTreeMap<String, OptionValue>,
    /// Goes up whenever the rows of coming steps have changed.
    version: u64,
}

const WEIGHT_DECAY: &str = "weight_decay";

impl Numbers {
    pub fn of(group: &PlannedGroup) -> Self {
        let rule = &group.rule;
        let decays = rule.options().iter().any(|(key, _)| *key == WEIGHT_DECAY) || rule.decay().lambda() != 0.0;
        Self {
            rule: rule.clone(),
            configured: rule.clone(),
            decays,
            schedule: group.schedule.as_ref().map(Running::of),
            schedules: group.schedules.clone(),
            set: BTreeMap::new(),
            version: 0,
        }
    }

    /// Goes on with options that were set, which were looked at before.
    pub fn resume(&mut self, set: &BTreeMap<String, OptionValue>, plateau: PlateauState) {
        self.rule = self.configured.clone();
        for (key, value) in set {
            let _ = self.rule.set_option(key, value);
        }
        self.set.clone_from(set);
        if let Some(own) = &mut self.schedule {
            own.resume(plateau);
        }
    }

    /// Whether a schedule of its own watches losses.
    pub fn watches(&self) -> bool {
        self.schedule.as_ref().is_some_and(|own| own.watched().is_some())
    }

    pub fn decay_schedule(&self) -> Option<&Schedule> {
        self.schedules.get(WEIGHT_DECAY)
    }
}

impl Rates {
    /// The scalars of the step that a group's tensors take after `count` steps.
    pub(crate) fn scalars(&self, group: usize, count: u64) -> Scalars {
        let Numbers { rule, schedules, .. } = &self.numbers[group];
        let lr = if rule.scalars_use_lr() { self.group_lr(group, count) } else { self.groups[group].lr };
        match schedules.keys().all(|key| key == WEIGHT_DECAY) {
            true => rule.scalars(count + 1, lr),
            false => numbers::at(rule.as_ref(), schedules, count).scalars(count + 1, lr),
        }
    }

    /// λ of that step, where it has a schedule.
    pub(crate) fn scheduled_decay(&self, group: usize, count: u64) -> Option<f64> {
        let schedule = self.numbers[group].decay_schedule()?;
        Some(schedule.lr(count, self.groups[group].decay.lambda()))
    }

    /// λ of that step by kind.
    pub(crate) fn decays_at(&self, group: usize, count: u64) -> Decays {
        let mut rates = self.groups[group];
        if let Some(lambda) = self.scheduled_decay(group, count) {
            rates.decay = rates.decay.with_lambda(lambda);
        }
        rates.decays()
    }

    /// Goes up whenever the rows of a group's coming steps have changed: scalars, and a λ that has a schedule.
    pub(crate) fn version(&self, group: usize) -> u64 {
        self.numbers[group].version
    }

    /// Whether a group's rows differ from those that are planned, and so from those of groups that it shares them with.
    pub(crate) fn stands_apart(&self, group: usize) -> bool {
        let numbers = &self.numbers[group];
        let decay = || self.groups[group].decay != numbers.configured.decay();
        !numbers.set.is_empty() || numbers.decay_schedule().is_some() && decay()
    }

    /// The rows of a group's coming steps have changed.
    pub(super) fn touch(&mut self, group: usize) {
        Arc::make_mut(&mut self.numbers)[group].version += 1;
    }

    pub(super) fn touch_all(&mut self) {
        Arc::make_mut(&mut self.numbers).iter_mut().for_each(|numbers| numbers.version += 1);
    }

    /// Rates have changed, and with them scalars that go by them.
    pub(super) fn touch_rates(&mut self) {
        for group in 0..self.groups.len() {
            if self.numbers[group].rule.scalars_use_lr() {
                self.touch(group);
            }
        }
    }

    /// Sets a number of a group, or a list of them: any option of its rule that selects no code, and `beta1`, `beta2` and
    /// `beta3` for the members of `betas`. A schedule of the number goes on from the new value. `lr` and `weight_decay` are
    /// what [`Rates::set_lr`] (for the group of `[optimizer]`), [`Rates::set_group_lr`] and
    /// [`Rates::set_group_weight_decay`] set.
    ///
    /// # Errors
    /// The rule has no such option, or one that selects code; the value is out of range, needs code or state that is not
    /// there, or is one that the option's schedule cannot start from. Nothing is changed then.
    pub fn set_option(&mut self, group: usize, table: &str, key: &str, value: &OptionValue) -> Result<()> {
        let number = || {
            let expected = || OptionError::new(key, format!("expected a number, got {value}")).within(table);
            value.number().ok_or_else(expected)
        };
        match key {
            "lr" if group == 0 => return self.set_lr(number()?),
            "lr" => return self.set_group_lr(group, table, number()?),
            WEIGHT_DECAY if self.numbers[group].decays => {
                return self.set_group_weight_decay(group, table, number()?);
            }
            _ => {}
        }
        let own = &self.numbers[group];
        let rule = numbers::changed(own.rule.as_ref(), key, value).map_err(|e| e.within(table))?;
        for (key, schedule) in &own.schedules {
            numbers::check_schedule(rule.as_ref(), key, schedule, &format!("{table}.schedules"), table)?;
        }
        let option = numbers::option_of(key);
        let of = |rule: &dyn Rule| rule.options().into_iter().find(|(name, _)| *name == option).and_then(|(_, v)| v);
        let (whole, configured) = (of(rule.as_ref()), of(own.configured.as_ref()));
        let own = &mut Arc::make_mut(&mut self.numbers)[group];
        // What is as configured again is as if it had never been set.
        match whole.filter(|whole| Some(whole) != configured.as_ref()) {
            Some(whole) => own.set.insert(option.to_owned(), whole),
            None => own.set.remove(option),
        };
        own.rule = rule;
        self.touch(group);
        Ok(())
    }
}
