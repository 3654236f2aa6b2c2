//! The configuration as tables of values, each in one order: what is printed, saved with a state, and compared.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::schedule::{Kind, Then};
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
    pub groups: Vec<Table>,
    pub gradient: Table,
    pub weights: Table,
    pub ema: Option<Table>,
    pub storage: Table,
    pub schedule: Table,
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
        let Tables { optimizer, groups, gradient, weights, ema, storage, schedule, then } = Tables::of(self);
        let mut text = String::new();
        optimizer.write("[optimizer]", &mut text);
        groups.iter().for_each(|group| group.write("[[groups]]", &mut text));
        gradient.write("[gradient]", &mut text);
        if !weights.0.is_empty() {
            weights.write("[weights]", &mut text);
        }
        ema.iter().for_each(|ema| ema.write("[ema]", &mut text));
        storage.write("[storage]", &mut text);
        schedule.write("[schedule]", &mut text);
        then.iter().for_each(|then| then.write("[[schedule.then]]", &mut text));
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
        let OptimizerConfig { rule, groups, gradient, weights, ema, schedule, common, storage } = config;
        let mut optimizer = Table::default();
        optimizer.add("rule", OptionValue::from(rule.name()));
        optimizer.add_all(rule.options());
        optimizer.add_all(common.options());
        let table = |options: &dyn Options| Table::default().with(options.options());
        let following = |then: &Then| {
            let mut table = Table::default();
            table.0.extend(then.after.to_value().map(|after| ("after".to_owned(), after)));
            table.add_schedule(&then.kind, then.warmup_steps);
            table.in_order()
        };
        let mut first = Table::default();
        first.add_schedule(&schedule.kind, schedule.warmup_steps);
        Self {
            optimizer: optimizer.in_order(),
            groups: groups.iter().map(Table::of_group).collect(),
            gradient: table(gradient),
            weights: table(weights),
            ema: ema.as_ref().map(|ema| table(ema)),
            storage: table(storage),
            schedule: first.in_order(),
            then: schedule.then.iter().map(following).collect(),
        }
    }

    /// Every value under its whole key.
    fn entries(&self) -> Vec<(String, String)> {
        let Self { optimizer, groups, gradient, weights, ema, storage, schedule, then } = self;
        let mut tables = vec![("optimizer".to_owned(), optimizer)];
        tables.extend(groups.iter().enumerate().map(|(i, group)| (format!("groups[{i}]"), group)));
        tables.extend([("gradient", gradient), ("weights", weights)].map(|(name, table)| (name.to_owned(), table)));
        tables.extend(ema.iter().map(|ema| ("ema".to_owned(), ema)));
        tables.extend([("storage", storage), ("schedule", schedule)].map(|(name, table)| (name.to_owned(), table)));
        tables.extend(then.iter().enumerate().map(|(i, then)| (format!("schedule.then[{i}]"), then)));
        let entries = |(name, table): (String, &Table)| {
            let entry = |(key, value): &(String, OptionValue)| (format!("{name}.{key}"), toml(value));
            table.0.iter().map(entry).collect::<Vec<_>>()
        };
        tables.into_iter().flat_map(entries).collect()
    }
}

impl Table {
    /// A group's: its options by name, since the order in which they were given means nothing, and of two for one
    /// option the last counts.
    fn of_group(group: &Group) -> Self {
        let Group { pattern, rule, options, frozen } = group;
        let mut own: BTreeMap<_, _> = options.iter().cloned().collect();
        let mut table = Self::default();
        table.add("match", OptionValue::Text(pattern.clone()));
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
        table.0.extend(own);
        table.in_order()
    }

    fn add(&mut self, key: &str, value: OptionValue) {
        self.0.push((key.to_owned(), value));
    }

    fn add_all(&mut self, options: Vec<(&'static str, Option<OptionValue>)>) {
        self.0.extend(options.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }

    fn add_schedule(&mut self, kind: &Kind, warmup_steps: u64) {
        self.add("kind", OptionValue::from(kind.name()));
        self.add_all(kind.options());
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
