//! Which groups have the scalars of every step in common.

use std::collections::HashMap;
use std::fmt::Write;

use super::PlannedGroup;
use crate::rule::Rule;

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
            *known.entry(key(index, group.rule.as_ref())).or_insert_with(|| {
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

/// What is equal where all scalars are: the rule's name and options, but for those that stand apart. A rule from
/// another crate may make more of them than it says, so some scalars of it are looked at too. Those that go by the rate,
/// which every group may have its own of at any time, are nobody else's.
fn key(group: usize, rule: &dyn Rule) -> String {
    if rule.scalars_use_lr() {
        return group.to_string();
    }
    let mut key = rule.name().to_owned();
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
