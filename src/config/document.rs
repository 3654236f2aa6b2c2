//! The configuration as files write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::ema::EmaConfig;
use super::schedule::{Kind, Schedule};
use super::{Group, OptimizerConfig, set_all, set_option};
use crate::error::Result;
use crate::options::{OptionError, OptionField, OptionValue, unknown_key};
use crate::rules;

type Table = BTreeMap<String, OptionValue>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    optimizer: Table,
    #[serde(default)]
    groups: Vec<Table>,
    #[serde(default)]
    gradient: Table,
    #[serde(default)]
    weights: Table,
    ema: Option<Table>,
    #[serde(default)]
    schedule: ScheduleTable,
    #[serde(default)]
    storage: Table,
}

/// A schedule and, in `then`, those that follow.
#[derive(Deserialize, Default)]
struct ScheduleTable {
    #[serde(default)]
    then: Vec<Table>,
    #[serde(flatten)]
    own: Table,
}

impl<'de> Deserialize<'de> for OptimizerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Document::deserialize(deserializer)?.build().map_err(de::Error::custom)
    }
}

impl Document {
    fn build(mut self) -> Result<OptimizerConfig> {
        let name = take::<String>(&mut self.optimizer, "rule")
            .map_err(|e| e.within("optimizer"))?
            .ok_or_else(|| OptionError::new("rule", "is missing").within("optimizer"))?;
        let mut config = OptimizerConfig::named(&name)?;
        for (key, value) in &self.optimizer {
            set_option(config.rule.as_mut(), &mut config.common, key, value, &["rule"])
                .map_err(|e| e.within("optimizer"))?;
        }
        config.groups = self.groups.into_iter().map(group).collect::<Result<_>>()?;
        set_all("gradient", &mut config.gradient, &self.gradient)?;
        set_all("weights", &mut config.weights, &self.weights)?;
        if let Some(table) = &self.ema {
            let ema = config.ema.insert(EmaConfig::default());
            set_all("ema", ema, table)?;
        }
        set_all("storage", &mut config.storage, &self.storage)?;
        config.schedule = sequence(self.schedule)?;
        config.check()?;
        Ok(config)
    }
}

fn group(mut table: Table) -> Result<Group> {
    let pattern = take::<String>(&mut table, "match")
        .map_err(|e| e.within("groups"))?
        .ok_or_else(|| OptionError::new("match", "is missing: a glob over tensor names").within("groups"))?;
    let mut group = Group::matching(pattern);
    let within = |e: OptionError, group: &Group| e.within(group.table());
    if let Some(name) = take::<String>(&mut table, "rule").map_err(|e| within(e, &group))? {
        group.rule = Some(rules::by_name(&name)?);
    }
    group.frozen = take(&mut table, "frozen").map_err(|e| within(e, &group))?.unwrap_or(false);
    group.options = table.into_iter().collect();
    Ok(group)
}

fn sequence(ScheduleTable { then, own }: ScheduleTable) -> Result<Schedule> {
    if own.is_empty() && then.is_empty() {
        return Ok(Schedule::default());
    }
    let mut whole = schedule(own, "schedule", "then")?;
    for (number, mut table) in then.into_iter().enumerate() {
        let name = format!("schedule.then[{number}]");
        let after = take::<u64>(&mut table, "after")
            .map_err(|e| e.within(&name))?
            .ok_or_else(|| OptionError::new("after", "is missing: steps of the one before").within(&name))?;
        whole = whole.then(after, schedule(table, &name, "after")?);
    }
    Ok(whole)
}

/// The schedule of a table, which may have one `other` key than a schedule's own.
fn schedule(mut table: Table, within: &str, other: &'static str) -> Result<Schedule> {
    let within = |e: OptionError| e.within(within);
    let allowed = || format!("allowed are {}", Kind::NAMES.join(", "));
    let name = take::<String>(&mut table, "kind")
        .map_err(within)?
        .ok_or_else(|| within(OptionError::new("kind", format!("is missing; {}", allowed()))))?;
    let kind = Kind::by_name(&name)
        .ok_or_else(|| within(OptionError::new("kind", format!("unknown kind {name:?}; {}", allowed()))))?;
    let mut schedule = Schedule { kind, warmup_steps: 0, then: Vec::new() };
    let mut known = schedule.keys();
    for (key, value) in &table {
        if !known.contains(&key.as_str()) {
            known.extend(["kind", other]);
            return Err(within(OptionError::new(key, unknown_key(&known))));
        }
        schedule.set_option(key, value).map_err(within)?;
    }
    Ok(schedule)
}

impl OptionField for String {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
    fn to_value(&self) -> Option<OptionValue> {
        Some(OptionValue::Text(self.clone()))
    }
}

/// Takes a key that is not an option of the table's struct out of the table.
fn take<T: OptionField>(table: &mut Table, key: &str) -> Result<Option<T>, OptionError> {
    let Some(value) = table.remove(key) else {
        return Ok(None);
    };
    T::from_value(&value)
        .map(Some)
        .ok_or_else(|| OptionError::new(key, format!("expected {}, got {value}", T::EXPECTED)))
}
