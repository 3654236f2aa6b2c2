//! The configuration as files write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::ema::EmaConfig;
use super::noise::NoiseConfig;
use super::numbers::value_key;
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
    groups: Vec<GroupTable>,
    #[serde(default)]
    gradient: Table,
    #[serde(default)]
    weights: Table,
    ema: Option<Table>,
    noise: Option<Table>,
    #[serde(default)]
    schedule: ScheduleTable,
    #[serde(default)]
    schedules: BTreeMap<String, ScheduleTable>,
    #[serde(default)]
    storage: Table,
}

/// A group, with its schedules.
#[derive(Deserialize)]
struct GroupTable {
    schedule: Option<ScheduleTable>,
    #[serde(default)]
    schedules: BTreeMap<String, ScheduleTable>,
    #[serde(flatten)]
    own: Table,
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
        if let Some(table) = &self.noise {
            let noise = config.noise.insert(NoiseConfig::default());
            set_all("noise", noise, table)?;
        }
        set_all("storage", &mut config.storage, &self.storage)?;
        config.schedule = sequence(self.schedule, "schedule", of_rates)?;
        config.schedules = option_schedules(self.schedules, "schedules")?;
        config.check()?;
        Ok(config)
    }
}

fn group(GroupTable { schedule, schedules, own: mut table }: GroupTable) -> Result<Group> {
    let pattern = take::<String>(&mut table, "match")
        .map_err(|e| e.within("groups"))?
        .ok_or_else(|| OptionError::new("match", "is missing: a glob over tensor names").within("groups"))?;
    let mut group = Group::matching(pattern);
    let within = |e: OptionError, group: &Group| e.within(group.table());
    group.name = take(&mut table, "name").map_err(|e| within(e, &group))?;
    if let Some(name) = take::<String>(&mut table, "rule").map_err(|e| within(e, &group))? {
        group.rule = Some(rules::by_name(&name)?);
    }
    group.frozen = take(&mut table, "frozen").map_err(|e| within(e, &group))?.unwrap_or(false);
    group.clip = take(&mut table, "clip").map_err(|e| within(e, &group))?.unwrap_or(true);
    group.lr_scale = take(&mut table, "lr_scale").map_err(|e| within(e, &group))?.unwrap_or(1.0);
    let name = group.table();
    group.schedule = schedule.map(|table| sequence(table, &format!("{name}.schedule"), of_rates)).transpose()?;
    group.schedules = option_schedules(schedules, &format!("{name}.schedules"))?;
    group.options = table.into_iter().collect();
    Ok(group)
}

fn option_schedules(tables: BTreeMap<String, ScheduleTable>, within: &str) -> Result<BTreeMap<String, Schedule>> {
    let one = |(key, table): (String, ScheduleTable)| {
        let schedule = sequence(table, &format!("{within}.{key}"), value_key)?;
        Ok((key, schedule))
    };
    tables.into_iter().map(one).collect()
}

/// What a key of a schedule of rates is called.
fn of_rates(key: &str) -> String {
    key.to_owned()
}

/// A schedule from its tables, whose keys are `called` so.
fn sequence(ScheduleTable { then, own }: ScheduleTable, table: &str, called: fn(&str) -> String) -> Result<Schedule> {
    if own.is_empty() && then.is_empty() {
        return Ok(Schedule::default());
    }
    let mut whole = schedule(own, table, "then", called)?;
    for (number, mut next) in then.into_iter().enumerate() {
        let name = format!("{table}.then[{number}]");
        let after = take::<u64>(&mut next, "after")
            .map_err(|e| e.within(&name))?
            .ok_or_else(|| OptionError::new("after", "is missing: steps of the one before").within(&name))?;
        whole = whole.then(after, schedule(next, &name, "after", called)?);
    }
    Ok(whole)
}

/// The schedule of a table, which may have one `other` key than a schedule's own.
fn schedule(mut table: Table, within: &str, other: &'static str, called: fn(&str) -> String) -> Result<Schedule> {
    let within = |e: OptionError| e.within(within);
    let allowed = || format!("allowed are {}", Kind::NAMES.join(", "));
    let name = take::<String>(&mut table, "kind")
        .map_err(within)?
        .ok_or_else(|| within(OptionError::new("kind", format!("is missing; {}", allowed()))))?;
    let kind = Kind::by_name(&name)
        .ok_or_else(|| within(OptionError::new("kind", format!("unknown kind {name:?}; {}", allowed()))))?;
    let mut schedule = Schedule { kind, warmup_steps: 0, then: Vec::new() };
    let known = schedule.keys();
    for (key, value) in &table {
        let Some(own) = known.iter().find(|own| called(own) == *key) else {
            let mut known: Vec<_> = known.iter().map(|own| called(own)).collect();
            known.extend(["kind", other].map(str::to_owned));
            let known: Vec<_> = known.iter().map(String::as_str).collect();
            return Err(within(OptionError::new(key, unknown_key(&known))));
        };
        schedule.set_option(own, value).map_err(|e| within(OptionError::new(&called(&e.key), e.problem)))?;
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
