//! A rule's options away from their defaults, driven by the options that it lists, so that a rule that joins the
//! list is covered without a word here.

use crate::options::OptionValue;
use crate::rule::Rule;

/// A rule with some options changed, and in words which.
#[derive(Debug, Clone)]
pub struct RuleVariation {
    /// Empty where all is default.
    pub label: String,
    /// The rule.
    pub rule: Box<dyn Rule>,
}

type Change = (&'static str, OptionValue);

/// The rule as it is, each of its options by itself away from its default, every combination of its
/// switches, and as many options at once as go together: what is worth a [`compare`](super::compare).
pub fn variations(rule: &dyn Rule) -> Vec<RuleVariation> {
    let single: Vec<Vec<Change>> = rule.options().iter().filter_map(|(key, _)| change_of(rule, key)).collect();
    let mut sets = vec![Vec::new()];
    sets.extend(single.iter().cloned());
    sets.extend(switch_sets(rule));
    sets.push(single.iter().fold(Vec::new(), |kept, changes| {
        let more = [kept.as_slice(), &changes[..1]].concat();
        if with(rule, &more).is_some() { more } else { kept }
    }));
    let mut seen = Vec::new();
    let variation = |changes: Vec<Change>| {
        let changed = with(rule, &changes)?;
        if seen.contains(&changed.options()) {
            return None;
        }
        seen.push(changed.options());
        let label: Vec<_> = changes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Some(RuleVariation { label: label.join(" "), rule: changed })
    };
    sets.into_iter().filter_map(variation).collect()
}

/// Values that differ from a default, the most telling first; the first that the rule accepts is taken.
fn away(value: Option<&OptionValue>) -> Vec<OptionValue> {
    let number = |x: f64| match x {
        0.0 => [0.1, 0.9, 1.0],
        // A term that is added to others must not vanish beside them.
        _ if x < 1e-4 => [1e-2, 1.5 * x, 0.1 * x],
        _ => [0.75 * x, 1.5 * x, 0.1 * x],
    };
    match value {
        Some(OptionValue::Bool(on)) => vec![OptionValue::Bool(!on)],
        Some(OptionValue::Number(x)) => number(*x).map(OptionValue::Number).to_vec(),
        Some(OptionValue::Numbers(list)) => {
            let nth = |n: usize| OptionValue::Numbers(list.iter().map(|x| number(*x)[n]).collect());
            (0..3).map(nth).collect()
        }
        Some(_) => Vec::new(),
        None => vec![OptionValue::Number(0.01)],
    }
}

/// A change of one option that the rule accepts, with a second one where the first needs it.
fn change_of(rule: &dyn Rule, key: &'static str) -> Option<Vec<Change>> {
    let options = rule.options();
    let changes = |key: &'static str| -> Vec<Change> {
        let value = options.iter().find(|(k, _)| *k == key).and_then(|(_, v)| v.as_ref());
        away(value).into_iter().map(|value| (key, value)).collect()
    };
    let alone = changes(key).into_iter().map(|change| vec![change]);
    let pairs = options
        .iter()
        .filter(|(other, _)| *other != key)
        .flat_map(|(other, _)| changes(other))
        .flat_map(|second| changes(key).into_iter().map(move |change| vec![change, second.clone()]));
    alone.chain(pairs).find(|changes| with(rule, changes).is_some())
}

/// Every set of changes among the options that are on or off: those that are true or false, and those
/// whose default of 0 leaves code or a slot out.
fn switch_sets(rule: &dyn Rule) -> Vec<Vec<Change>> {
    let code = |rule: &dyn Rule| {
        let slots: Vec<_> = rule.slots().iter().map(|s| (s.name, s.active)).collect();
        (rule.constants(), slots, rule.wgsl().to_owned())
    };
    let mut switches: Vec<Change> = Vec::new();
    for (key, value) in rule.options() {
        let Some(changes) = change_of(rule, key) else { continue };
        let changes_code = with(rule, &changes).is_some_and(|changed| code(changed.as_ref()) != code(rule));
        if changes_code || matches!(value, Some(OptionValue::Bool(_))) {
            let new = changes.into_iter().filter(|(key, _)| switches.iter().all(|(known, _)| known != key));
            switches.extend(new.collect::<Vec<_>>());
        }
    }
    (0..1usize << switches.len())
        .map(|set| switches.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, c)| c.clone()).collect())
        .collect()
}

/// The rule with those changes, if it accepts them.
fn with(rule: &dyn Rule, changes: &[Change]) -> Option<Box<dyn Rule>> {
    let mut changed = rule.boxed();
    for (key, value) in changes {
        changed.set_option(key, value).ok()?;
    }
    changed.check().ok()?;
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{self, AdamW, Sgd};

    #[test]
    fn every_option_of_every_rule_is_away_from_its_default_somewhere() {
        for rule in rules::all() {
            let variations = variations(rule.as_ref());
            for (index, (key, value)) in rule.options().iter().enumerate() {
                assert!(variations.iter().any(|v| v.rule.options()[index].1 != *value), "{} {key}", rule.name());
            }
        }
    }

    #[test]
    fn switches_are_combined() {
        let labels: Vec<_> = variations(&Sgd::default()).into_iter().map(|v| v.label).collect();
        assert!(labels.iter().any(|l| l.contains("nesterov=true")), "{labels:?}");
        let amsgrad = variations(&AdamW::default()).into_iter().filter(|v| {
            let options = v.rule.options();
            options.iter().any(|(k, v)| *k == "amsgrad" && *v == Some(OptionValue::Bool(true)))
        });
        assert_eq!(amsgrad.count(), 2, "alone and with all others");
    }
}
