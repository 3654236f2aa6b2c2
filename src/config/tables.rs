//! The configuration as tables of values, each in one order: what is printed, saved with a state, and compared.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::numbers::value_key;
use super::schedule::{Kind, Schedule, Then};
use super::{Group, OptimizerConfig};
use crate::options::{OptionField, OptionValue, Options};

/// Keys and values in order. Options that are off stand nowhere.
#[derive(Debug, Default)]
pub(super) struct Table(pub Vec<(String, OptionValue)>);

/// All tables of a configuration. Every option has its value in them, also where it is the default: defaults may
/// change, and what was saved must not.
#[derive(Debug)]
pub(super) struct Tables {
    pub optimizer: Table,
    pub groups: Vec<GroupTables>,
    pub gradient: Table,
    pub weights: Table,
    pub ema: Option<Table>,
    pub noise: Option<Table>,
    pub storage: Table,
    pub schedule: Sequence,
    /// Of other numbers than the rate.
    pub schedules: Vec<(String, Sequence)>,
}

/// A group's own table and those of its schedules.
#[derive(Debug)]
pub(super) struct GroupTables {
    pub own: Table,
    pub schedule: Option<Sequence>,
    pub schedules: Vec<(String, Sequence)>,
}

/// A schedule, and those that take over from it.
#[derive(Debug)]
pub(super) struct Sequence {
    pub first: Table,
    pub then: Vec<Table>,
}

/// A value that two configurations do not share.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Where it stands: `optimizer.lr`, `groups[0].match`, `schedule.then[1].after`. Tables of a list count from 0.
    pub key: String,
    /// The first configuration's, as TOML; `None` where it has none.
    pub before: Option<String>,
    /// The second's.
    pub after: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        write!(f, "{}: {}, now {}", self.key, word(&self.before), word(&self.after))
    }
}

impl OptimizerConfig {
    /// The configuration as TOML, in full and in one order of tables and keys. What reads it gets an equal
    /// configuration, unless a rule is from another crate: it stands there by its name.
    pub fn to_toml(&self) -> String {
        let Tables { optimizer, groups, gradient, weights, ema, noise, storage, schedule, schedules } =
            Tables::of(self);
        let mut text = String::new();
        let option_schedules = |schedules: &[(String, Sequence)], within: &str, text: &mut String| {
            schedules.iter().for_each(|(key, own)| own.write(&format!("{within}.{}", bare(key)), text));
        };
        optimizer.write("[optimizer]", &mut text);
        for group in &groups {
            group.own.write("[[groups]]", &mut text);
            group.schedule.iter().for_each(|own| own.write("groups.schedule", &mut text));
            option_schedules(&group.schedules, "groups.schedules", &mut text);
        }
        gradient.write("[gradient]", &mut text);
        if !weights.0.is_empty() {
            weights.write("[weights]", &mut text);
        }
        ema.iter().for_each(|ema| ema.write("[ema]", &mut text));
        noise.iter().for_each(|noise| noise.write("[noise]", &mut text));
        storage.write("[storage]", &mut text);
        schedule.write("schedule", &mut text);
        option_schedules(&schedules, "schedules", &mut text);
        text
    }

    /// What `after` has otherwise than this configuration, key by key.
    ///
    /// ```
    /// use wgpu_optim::{OptimizerConfig, rules::Sgd};
    ///
    /// let [before, after] = [0.1, 0.2].map(|lr| OptimizerConfig::new(Sgd { lr, ..Sgd::default() }));
    /// let differences: Vec<_> = before.differences(&after).iter().map(ToString::to_string).collect();
    /// assert_eq!(differences, ["optimizer.lr: 0.1, now 0.2"]);
    /// ```
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        let before = Tables::of(self).entries();
        let after: Vec<_> = Tables::of(after).entries();
        let others: BTreeMap<_, _> = after.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let known: BTreeMap<_, _> = before.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let changed = before.iter().filter_map(|(key, value)| {
            let other = others.get(key.as_str()).copied();
            (other != Some(value)).then_some((key, Some(value), other))
        });
        let new = after.iter().filter(|(key, _)| !known.contains_key(key.as_str()));
        let all = changed.chain(new.map(|(key, value)| (key, None, Some(value))));
        all.map(|(key, before, after)| Difference { key: key.clone(), before: before.cloned(), after: after.cloned() })
            .collect()
    }
}

impl Tables {
    pub fn of(config: &OptimizerConfig) -> Self {
        let OptimizerConfig { rule, groups, gradient, weights, ema, noise, schedule, schedules, common, storage } =
            config;
        let mut optimizer = Table::default();
        optimizer.add("rule", OptionValue::from(rule.name()));
        optimizer.add_all(rule.options());
        optimizer.add_all(common.options());
        let table = |options: &dyn Options| Table::default().with(options.options());
        Self {
            optimizer: optimizer.in_order(),
            groups: groups.iter().map(GroupTables::of).collect(),
            gradient: table(gradient),
            weights: table(weights),
            ema: ema.as_ref().map(|ema| table(ema)),
            noise: noise.as_ref().map(|noise| table(noise)),
            storage: table(storage),
            schedule: Sequence::of(schedule, str::to_owned),
            schedules: Sequence::all(schedules),
        }
    }

    /// Every value under its whole key.
    fn entries(&self) -> Vec<(String, String)> {
        let Self { optimizer, groups, gradient, weights, ema, noise, storage, schedule, schedules } = self;
        let mut tables = vec![("optimizer".to_owned(), optimizer)];
        for (i, group) in groups.iter().enumerate() {
            tables.push((format!("groups[{i}]"), &group.own));
            tables.extend(group.schedule.iter().flat_map(|own| own.tables(&format!("groups[{i}].schedule"))));
            tables.extend(Sequence::tables_of(&group.schedules, &format!("groups[{i}].schedules")));
        }
        tables.extend([("gradient", gradient), ("weights", weights)].map(|(name, table)| (name.to_owned(), table)));
        tables.extend(ema.iter().map(|ema| ("ema".to_owned(), ema)));
        tables.extend(noise.iter().map(|noise| ("noise".to_owned(), noise)));
        tables.push(("storage".to_owned(), storage));
        tables.extend(schedule.tables("schedule"));
        tables.extend(Sequence::tables_of(schedules, "schedules"));
        let entries = |(name, table): (String, &Table)| {
            let entry = |(key, value): &(String, OptionValue)| (format!("{name}.{key}"), toml(value));
            table.0.iter().map(entry).collect::<Vec<_>>()
        };
        tables.into_iter().flat_map(entries).collect()
    }
}

impl GroupTables {
    /// Its options by name, since the order in which they were given means nothing, and of two for one option the last
    /// counts. What is as it would be anyway stands nowhere.
    fn of(group: &Group) -> Self {
        let Group { pattern, name, rule, options, lr_scale, schedule, schedules, clip, frozen } = group;
        let mut own: BTreeMap<_, _> = options.iter().cloned().collect();
        let mut table = Table::default();
        table.add("match", OptionValue::Text(pattern.clone()));
        if let Some(name) = name {
            table.add("name", OptionValue::Text(name.clone()));
        }
        if let Some(rule) = rule {
            table.add("rule", OptionValue::from(rule.name()));
            for (key, value) in rule.options() {
                let value = own.remove(key).or(value);
                table.0.extend(value.map(|value| (key.to_owned(), value)));
            }
        }
        if *frozen {
            table.add("frozen", OptionValue::Bool(true));
        }
        if !clip {
            table.add("clip", OptionValue::Bool(false));
        }
        if *lr_scale != 1.0 {
            table.add("lr_scale", OptionValue::Number(*lr_scale));
        }
        table.0.extend(own);
        Self {
            own: table.in_order(),
            schedule: schedule.as_ref().map(|own| Sequence::of(own, str::to_owned)),
            schedules: Sequence::all(schedules),
        }
    }
}

impl Sequence {
    /// With its keys `called` so.
    fn of(schedule: &Schedule, called: impl Fn(&str) -> String) -> Self {
        let following = |then: &Then| {
            let mut table = Table::default();
            table.0.extend(then.after.to_value().map(|after| ("after".to_owned(), after)));
            table.add_schedule(&then.kind, then.warmup_steps, &called);
            table.in_order()
        };
        let mut first = Table::default();
        first.add_schedule(&schedule.kind, schedule.warmup_steps, &called);
        Self { first: first.in_order(), then: schedule.then.iter().map(following).collect() }
    }

    fn all(schedules: &BTreeMap<String, Schedule>) -> Vec<(String, Self)> {
        schedules.iter().map(|(key, schedule)| (key.clone(), Self::of(schedule, value_key))).collect()
    }

    fn write(&self, name: &str, text: &mut String) {
        self.first.write(&format!("[{name}]"), text);
        self.then.iter().for_each(|then| then.write(&format!("[[{name}.then]]"), text));
    }

    fn tables_of<'a>(all: &'a [(String, Self)], within: &str) -> Vec<(String, &'a Table)> {
        all.iter().flat_map(|(key, own)| own.tables(&format!("{within}.{}", bare(key)))).collect()
    }

    /// Its tables under their names.
    fn tables(&self, name: &str) -> Vec<(String, &Table)> {
        let then = self.then.iter().enumerate().map(|(i, then)| (format!("{name}.then[{i}]"), then));
        std::iter::once((name.to_owned(), &self.first)).chain(then).collect()
    }
}

impl Table {
    fn add(&mut self, key: &str, value: OptionValue) {
        self.0.push((key.to_owned(), value));
    }

    fn add_all(&mut self, options: Vec<(&'static str, Option<OptionValue>)>) {
        self.0.extend(options.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }

    fn add_schedule(&mut self, kind: &Kind, warmup_steps: u64, called: impl Fn(&str) -> String) {
        self.add("kind", OptionValue::from(kind.name()));
        let options = kind.options().into_iter();
        self.0.extend(options.filter_map(|(key, value)| Some((called(key), value?))));
        self.0.extend(warmup_steps.to_value().map(|steps| ("warmup_steps".to_owned(), steps)));
    }

    fn with(mut self, options: Vec<(&'static str, Option<OptionValue>)>) -> Self {
        self.add_all(options);
        self.in_order()
    }

    /// Tables last, as formats want it that have no other place for them.
    fn in_order(mut self) -> Self {
        self.0.sort_by_key(|(_, value)| matches!(value, OptionValue::Table(_)));
        self
    }

    fn write(&self, heading: &str, text: &mut String) {
        if !text.is_empty() {
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{heading}");
        for (key, value) in &self.0 {
            let _ = writeln!(text, "{} = {}", bare(key), toml(value));
        }
    }
}

fn toml(value: &OptionValue) -> String {
    let list = |parts: Vec<String>| parts.join(", ");
    match value {
        OptionValue::Bool(v) => v.to_string(),
        OptionValue::Number(v) => number(*v),
        OptionValue::Whole(v) => v.to_string(),
        OptionValue::Numbers(v) => format!("[{}]", list(v.iter().copied().map(number).collect())),
        OptionValue::Text(v) => quoted(v),
        OptionValue::Table(v) => {
            format!("{{ {} }}", list(v.iter().map(|(key, v)| format!("{} = {}", bare(key), number(*v))).collect()))
        }
    }
}

/// The shortest text that reads back as the same number; whole ones without a point, as people write them.
fn number(x: f64) -> String {
    let exact = x.abs() < 1e15 && !(x == 0.0 && x.is_sign_negative());
    match x {
        x if x.is_nan() => "nan".to_owned(),
        x if x.fract() == 0.0 && exact => format!("{x:.0}"),
        x => format!("{x:?}"),
    }
}

fn bare(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
