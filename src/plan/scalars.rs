//! Which groups have the scalars of every step in common.

use std::collections::HashMap;
use std::fmt::Write;

use super::PlannedGroup;

/// Options that scalars do not depend on: they can change at run time without them.
const APART: [&str; 2] = ["lr", "weight_decay"];

/// Groups by their scalars. Those that differ in rate, decay or code that numbers do not reach share theirs.
#[derive(Debug, Clone, Default)]
pub struct SharedScalars {
    of_group: Vec<usize>,
    first_groups: Vec<usize>,
}

impl SharedScalars {
    pub(super) fn of(groups: &[PlannedGroup]) -> Self {
        let mut known = HashMap::new();
        let mut first_groups = Vec::new();
        let mut place = |(index, group): (usize, &PlannedGroup)| {
            *known.entry(key(index, group)).or_insert_with(|| {
                first_groups.push(index);
                first_groups.len() - 1
            })
        };
        let of_group = groups.iter().enumerate().map(&mut place).collect();
        Self { of_group, first_groups }
    }

    /// The place of a group's scalars among all there are.
    pub(crate) fn of_group(&self, group: usize) -> usize {
        self.of_group[group]
    }

    /// Of each of them, the first group that has them.
    pub(crate) fn first_groups(&self) -> &[usize] {
        &self.first_groups
    }
}

/// What is equal where all rows are: the rule's name, options, but for those that stand apart, and schedules. A rule from
/// another crate may make more of them than it says, so some scalars of it are looked at too. Those that go by the rate,
/// which every group may have its own of at any time, are nobody else's.
fn key(index: usize, group: &PlannedGroup) -> String {
    let rule = group.rule.as_ref();
    if rule.scalars_use_lr() {
        return index.to_string();
    }
    let mut key = rule.name().to_owned();
    for (name, schedule) in &group.schedules {
        // A decay that has a schedule stands in the rows.
        let base = (name == "weight_decay").then(|| rule.decay().lambda());
        let _ = write!(key, " {name}: {schedule:?} {base:?}");
    }
    for (name, value) in rule.options() {
        if !APART.contains(&name) {
            // Writing to a string cannot fail.
            let _ = write!(key, " {name}={value:?}");
        }
    }
    for step in [1, 2, 3, 1000] {
        for scalar in rule.scalars(step, rule.lr()) {
            let _ = write!(key, " {:x}", scalar.to_bits());
        }
    }
    key
}
