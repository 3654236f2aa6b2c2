//! Groups of tensors with options of their own.

use std::collections::{BTreeMap, HashSet};

use super::{CommonOptions, OptimizerConfig, Schedule, check_average, check_rule, noise, numbers, set_option};
use crate::error::{Error, Result};
use crate::options::range::NON_NEGATIVE;
use crate::options::{OptionError, OptionValue};
use crate::rule::Rule;
use crate::storage::{Storage, StorageConfig};

/// What setters call the tensors that no group claims.
pub(crate) const THE_REST: &str = "optimizer";

/// Keys of a group that are no options of a rule, beside those of its storage.
const OWN_KEYS: [&str; 8] = ["match", "rule", "frozen", "name", "clip", "lr_scale", "schedule", "schedules"];

/// Further names that no rule may give an option: they are kept for groups.
const RESERVED: [&str; 8] =
    ["exclude", "max_rank", "min_rank", "noise", "rows", "row_steps", "column_lr", "second_moment"];

/// Tensors that share options, chosen by name.
#[derive(Debug, Clone)]
pub struct Group {
    /// A glob over whole tensor names, by character: `*` stands for any text, dots and slashes too, `?` for one
    /// character, `[a-z]` for one of these and `[!a-z]` for one of the others, `{a,b}` for either, and `\` takes the next
    /// character as it is. A name that is the same text matches, whatever characters are in it.
    pub pattern: String,
    /// What setters and messages call it in place of its glob.
    pub name: Option<String>,
    /// A rule of its own, with that rule's defaults; `None` takes the optimizer's.
    pub rule: Option<Box<dyn Rule>>,
    /// Options that differ from the rule's, in the order given.
    pub options: Vec<(String, OptionValue)>,
    /// What its rate is multiplied with, last of all.
    pub lr_scale: f64,
    /// A schedule of its own in place of the optimizer's.
    pub schedule: Option<Schedule>,
    /// Schedules of its other numbers, by their names.
    pub schedules: BTreeMap<String, Schedule>,
    /// Whether limits and normalising of gradients' norms act on it, and count it.
    pub clip: bool,
    /// Its tensors are left alone: they need no gradient and keep no state.
    pub frozen: bool,
}

/// What a group comes to.
pub(crate) struct Resolved {
    pub rule: Box<dyn Rule>,
    pub common: CommonOptions,
    pub storage: Storage,
    /// Schedules of its numbers, its own and those of the optimizer that act on it.
    pub schedules: BTreeMap<String, Schedule>,
}

impl Group {
    /// The tensors whose whole name matches the glob, see [`Group::pattern`].
    pub fn matching(pattern: impl Into<String>) -> Self {
        Self {
            pattern: pattern.into(),
            name: None,
            rule: None,
            options: Vec::new(),
            lr_scale: 1.0,
            schedule: None,
            schedules: BTreeMap::new(),
            clip: true,
            frozen: false,
        }
    }

    /// A name, by which setters and messages know it.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Another value for an option of the rule.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<OptionValue>) -> Self {
        self.options.push((key.into(), value.into()));
        self
    }

    /// Another rule. Options of the optimizer's rule do not carry over.
    pub fn rule(mut self, rule: impl Rule + 'static) -> Self {
        self.rule = Some(Box::new(rule));
        self
    }

    /// Multiplies the rate that it would have.
    pub fn lr_scale(mut self, scale: f64) -> Self {
        self.lr_scale = scale;
        self
    }

    /// A schedule of its own in place of the optimizer's, for its own rate.
    pub fn schedule(mut self, schedule: impl Into<Schedule>) -> Self {
        self.schedule = Some(schedule.into());
        self
    }

    /// A schedule for another of its numbers, see [`OptimizerConfig::option_schedule`].
    pub fn option_schedule(mut self, key: impl Into<String>, schedule: impl Into<Schedule>) -> Self {
        self.schedules.insert(key.into(), schedule.into());
        self
    }

    /// Leaves its gradients out of every clip and normalising by norms: they neither count nor are scaled. The clip by value
    /// and the test for what is not finite stay.
    pub fn unclipped(mut self) -> Self {
        self.clip = false;
        self
    }

    /// Leaves the tensors alone.
    pub fn frozen(mut self) -> Self {
        self.frozen = true;
        self
    }

    /// What it is called: its name, else its glob.
    pub fn label(&self) -> &str {
        self.name.as_ref().unwrap_or(&self.pattern)
    }

    pub(super) fn table(&self) -> String {
        format!("groups.{:?}", self.label())
    }

    /// The rule, the common options and the storage with the group's own.
    pub(crate) fn resolve(&self, base: &OptimizerConfig) -> Result<Resolved> {
        let within = |e: OptionError| e.within(self.table());
        let mut rule = self.rule.clone().unwrap_or_else(|| base.rule.clone());
        let mut common = base.common.clone();
        let is_storage = |key: &str| StorageConfig::GROUP_KEYS.contains(&key);
        let (storage_options, options): (Vec<_>, Vec<_>) =
            self.options.iter().cloned().partition(|(key, _)| is_storage(key));
        let others = [&OWN_KEYS[..], &StorageConfig::GROUP_KEYS[..]].concat();
        for (key, value) in &options {
            set_option(rule.as_mut(), &mut common, key, value, &others).map_err(within)?;
        }
        let mut storage = base.storage.clone();
        storage.set(&storage_options).map_err(within)?;
        check_rule(rule.as_ref(), &common).map_err(within)?;
        storage.check().map_err(within)?;
        check_average(&storage, base).map_err(within)?;
        if base.noise.is_some() && !self.frozen {
            noise::check_rule(rule.as_ref()).map_err(within)?;
        }
        self.check_schedules(rule.as_ref())?;
        let mut schedules = self.schedules.clone();
        for (key, schedule) in &base.schedules {
            let option = numbers::option_of(key);
            let is_own = self.rule.is_some() || self.options.iter().any(|(own, _)| own == option);
            if !is_own {
                schedules.entry(key.clone()).or_insert_with(|| schedule.clone());
            }
        }
        Ok(Resolved { rule, common, storage: storage.resolve(), schedules })
    }

    fn check_schedules(&self, rule: &dyn Rule) -> Result<()> {
        let table = self.table();
        NON_NEGATIVE.check("lr_scale", self.lr_scale).map_err(|e| e.within(&table))?;
        if let Some(schedule) = &self.schedule {
            let own = format!("{table}.schedule");
            schedule.check_tables(&own, &table, rule.lr())?;
            if schedule.changes_rates() && !rule.scaled_by_lr() {
                let problem = format!("acts on nothing: rule {:?} takes lr as its first step size only", rule.name());
                return Err(OptionError::new("kind", problem).within(own));
            }
        }
        let mut own = self.schedules.iter();
        own.try_for_each(|(key, schedule)| {
            numbers::check_schedule(rule, key, schedule, &format!("{table}.schedules"), &table)
        })
    }
}

/// Names are what groups are known by.
pub(super) fn check_names(groups: &[Group]) -> Result<()> {
    let mut known = HashSet::new();
    for group in groups {
        let Some(name) = &group.name else { continue };
        let problem = match name.as_str() {
            "" => "name: must not be empty",
            THE_REST => "name: is that of the tensors that no group claims",
            name if !known.insert(name) => "name: is given twice",
            _ => continue,
        };
        return Err(Error::Group { pattern: name.clone(), problem: problem.to_owned() });
    }
    Ok(())
}

/// A rule from another crate may not have options that groups spell otherwise.
pub(super) fn check_reserved(rule: &dyn Rule) -> Result<(), OptionError> {
    let is_reserved =
        |key: &str| OWN_KEYS.contains(&key) || RESERVED.contains(&key) || StorageConfig::GROUP_KEYS.contains(&key);
    match rule.options().into_iter().find(|(key, _)| is_reserved(key)) {
        Some((key, _)) => Err(OptionError::new(
            key,
            format!("rule {:?} has an option of a name that is kept for groups", rule.name()),
        )),
        None => Ok(()),
    }
}
