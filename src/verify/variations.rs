//! A rule's options away from their defaults, driven by the options that it lists, so that a rule that joins the
//! list is covered without a word here. A value is taken only if it changes what comes out, in the steps and with the
//! gradients of a comparison: what changes nothing is checked by nothing.

use std::collections::BTreeMap;

use super::STEPS;
use super::effect::tells;
use super::runs::{Inputs, Values, ordinary};
use crate::config::OptimizerConfig;
use crate::options::OptionValue;
use crate::rule::Rule;

/// A configuration with some options changed, and in words which.
#[derive(Debug, Clone)]
pub struct Variation {
    /// Empty where all is default.
    pub label: String,
    /// The configuration.
    pub config: OptimizerConfig,
}

impl Variation {
    /// The rule with its defaults.
    pub fn plain(rule: &dyn Rule) -> Self {
        Self { label: String::new(), config: OptimizerConfig::from_boxed(rule.boxed()) }
    }
}

/// The rule as it is, each of its options by itself away from its default, every combination of its
/// switches, and as many options at once as go together: what is worth a [`compare`](super::compare).
/// An option that does nothing by itself comes with a second one, such as dampening with momentum.
pub fn variations(rule: &dyn Rule) -> Vec<Variation> {
    let mut search = Search::new(rule);
    let knobs = search.knobs();
    let mut sets = vec![Vec::new()];
    sets.extend(knobs.iter().map(Knob::changes));
    sets.extend(search.switch_sets(&knobs));
    sets.push(search.together(&knobs));
    sets.retain(|changes| changes.is_empty() || search.tells(&[], changes));
    let mut seen = Vec::new();
    let variation = |changes: Vec<Change>| {
        let changed = with(rule, &changes)?;
        if seen.contains(&changed.options()) {
            return None;
        }
        seen.push(changed.options());
        Some(Variation { label: label(rule, changed.as_ref()), config: OptimizerConfig::from_boxed(changed) })
    };
    sets.into_iter().filter_map(variation).collect()
}

/// Of the [`variations`] that with the most options away from their defaults: slots and code that are there only then.
pub fn most_varied(rule: &dyn Rule) -> Variation {
    let most = variations(rule).into_iter().max_by_key(|variation| variation.label.split(' ').count());
    most.unwrap_or_else(|| Variation::plain(rule))
}

/// Another value for an option, or for one element of a list.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    key: &'static str,
    element: Option<usize>,
    value: OptionValue,
}

/// A change that tells, on top of others that it needs.
#[derive(Debug)]
struct Knob {
    needs: Vec<Change>,
    change: Change,
}

impl Knob {
    fn changes(&self) -> Vec<Change> {
        [self.needs.as_slice(), std::slice::from_ref(&self.change)].concat()
    }
}

/// Tensors with which the values are looked for: a scalar, a vector, a matrix, a stack.
const SMALL: [&[u64]; 4] = [&[1], &[13], &[5, 9], &[2, 3, 4]];

/// What changes of a rule come to, on the CPU.
struct Search<'a> {
    rule: &'a dyn Rule,
    inputs: Inputs,
    /// By the options' text.
    known: BTreeMap<String, Option<Vec<Values>>>,
}

impl<'a> Search<'a> {
    fn new(rule: &'a dyn Rule) -> Self {
        let config = OptimizerConfig::from_boxed(rule.boxed());
        Self { rule, inputs: Inputs::new(&SMALL, STEPS, ordinary(&config)), known: BTreeMap::new() }
    }

    /// Under which name the outcome of those changes is known from now on, if the rule accepts them.
    fn run(&mut self, changes: &[Change]) -> Option<String> {
        let rule = with(self.rule, changes)?;
        let name = format!("{:?}", rule.options());
        let run = || self.inputs.on_cpu::<f64>(&OptimizerConfig::from_boxed(rule)).ok();
        if !self.known.contains_key(&name) {
            self.known.insert(name.clone(), run());
        }
        Some(name)
    }

    /// Whether the changes tell on top of those that they need.
    fn tells(&mut self, needs: &[Change], changes: &[Change]) -> bool {
        let whole = [needs, changes].concat();
        let keys = [needs, &whole].map(|changes| self.run(changes));
        let outcome = |key: &Option<String>| self.known.get(key.as_ref()?)?.as_deref();
        match keys.each_ref().map(outcome) {
            [Some(base), Some(changed)] => tells(&self.inputs, base, changed),
            _ => false,
        }
    }

    /// For every option, and each element of those that are lists, the first value that tells: by itself, or with another
    /// option away from its default.
    fn knobs(&mut self) -> Vec<Knob> {
        let places = self.places();
        let mut knobs: Vec<Knob> = Vec::new();
        for (place, values) in &places {
            let others = places.iter().filter(|(other, _)| other != place);
            let pairs = others.flat_map(|(other, values)| values.iter().map(move |v| vec![change(other, v)]));
            let mut needs = std::iter::once(Vec::new()).chain(pairs);
            let found = needs.find_map(|needs| {
                let change = values
                    .iter()
                    .map(|v| change(place, v))
                    .find(|change| self.tells(&needs, std::slice::from_ref(change)))?;
                Some(Knob { needs, change })
            });
            knobs.extend(found);
        }
        knobs
    }

    /// Options and elements of lists, with the values to try.
    fn places(&self) -> Vec<(Place, Vec<OptionValue>)> {
        let of = |(key, value): (&'static str, Option<OptionValue>)| match value {
            Some(OptionValue::Numbers(list)) => {
                let element = |(i, x): (usize, &f64)| ((key, Some(i)), away(Some(&OptionValue::Number(*x))));
                list.iter().enumerate().map(element).collect()
            }
            value => vec![((key, None), away(value.as_ref()))],
        };
        self.rule.options().into_iter().flat_map(of).collect()
    }

    /// Every set of changes among the options that are on or off: those that are true or false, and those
    /// whose default of 0 leaves code or a slot out.
    fn switch_sets(&self, knobs: &[Knob]) -> Vec<Vec<Change>> {
        let code = |changes: &[Change]| {
            let rule = with(self.rule, changes)?;
            let slots: Vec<_> = rule.slots().iter().map(|s| (s.name, s.active)).collect();
            Some((rule.constants(), slots, rule.wgsl().to_owned()))
        };
        let mut switches: Vec<Change> = Vec::new();
        let is_switch = |needs: &[Change], change: &Change| {
            let changed = [needs, std::slice::from_ref(change)].concat();
            matches!(change.value, OptionValue::Bool(_)) || code(&changed) != code(needs)
        };
        for knob in knobs {
            let alone = |change: &Change| is_switch(&[], change);
            let new = knob
                .needs
                .iter()
                .filter(|change| alone(change))
                .chain(Some(&knob.change).filter(|change| is_switch(&knob.needs, change)));
            for change in new {
                if switches.iter().all(|known| known.key != change.key) {
                    switches.push(change.clone());
                }
            }
        }
        let chosen = |set: usize| switches.iter().enumerate().filter(move |(i, _)| set >> i & 1 == 1);
        (0..1usize << switches.len()).map(|set| chosen(set).map(|(_, change)| change.clone()).collect()).collect()
    }

    /// As many changes at once as go together and still tell.
    fn together(&mut self, knobs: &[Knob]) -> Vec<Change> {
        knobs.iter().fold(Vec::new(), |mut kept, knob| {
            for change in knob.changes() {
                let known = kept.iter().any(|k: &Change| (k.key, k.element) == (change.key, change.element));
                if !known && self.tells(&kept, std::slice::from_ref(&change)) {
                    kept.push(change);
                }
            }
            kept
        })
    }
}

/// An option, or one element of a list.
type Place = (&'static str, Option<usize>);

fn change(place: &Place, value: &OptionValue) -> Change {
    Change { key: place.0, element: place.1, value: value.clone() }
}

/// Values that differ from a default, the likeliest to tell first.
fn away(value: Option<&OptionValue>) -> Vec<OptionValue> {
    let numbers = |x: f64| match x {
        0.0 => vec![0.1, 0.9, 1.0, 3.0],
        // A term that is added to others must not vanish beside them.
        _ if x.abs() < 1e-4 => vec![1e-2, 0.3, 1.5 * x, 0.1 * x],
        _ => [0.75, 1.5, 0.1, 10.0, 1e-2, 1e3, 1e-4].map(|factor| factor * x).to_vec(),
    };
    match value {
        Some(OptionValue::Bool(on)) => vec![OptionValue::Bool(!on)],
        Some(OptionValue::Number(x)) => numbers(*x).into_iter().map(OptionValue::Number).collect(),
        Some(_) => Vec::new(),
        None => vec![OptionValue::Number(0.01)],
    }
}

/// The rule with those changes, if it accepts them.
fn with(rule: &dyn Rule, changes: &[Change]) -> Option<Box<dyn Rule>> {
    let mut changed = rule.boxed();
    for Change { key, element, value } in changes {
        let value = match (element, value) {
            (Some(element), OptionValue::Number(x)) => {
                let current = changed.options().into_iter().find(|(name, _)| name == key);
                let Some((_, Some(OptionValue::Numbers(mut list)))) = current else { return None };
                *list.get_mut(*element)? = *x;
                OptionValue::Numbers(list)
            }
            _ => value.clone(),
        };
        changed.set_option(key, &value).ok()?;
    }
    changed.check_ranges().and_then(|()| changed.check()).ok()?;
    Some(changed)
}

/// The options that differ, in words.
fn label(rule: &dyn Rule, changed: &dyn Rule) -> String {
    let defaults = rule.options();
    let differ = changed.options().into_iter().filter(|option| !defaults.contains(option));
    let words: Vec<_> = differ.filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::differ;
    use super::*;
    use crate::rules::{self, AdamW, Sgd};

    /// The option at that place.
    fn at(rule: &dyn Rule, place: &Place) -> Option<OptionValue> {
        let (_, value) = rule.options().into_iter().find(|(key, _)| *key == place.0)?;
        match (value?, place.1) {
            (OptionValue::Numbers(list), Some(element)) => list.get(element).map(|x| OptionValue::Number(*x)),
            (value, _) => Some(value),
        }
    }

    /// The variation with that option, or element, at its default again.
    fn without(rule: &dyn Rule, changed: &dyn Rule, place: &Place) -> Option<OptimizerConfig> {
        let value = at(rule, place);
        match value {
            Some(value) => with(changed, &[change(place, &value)]).map(OptimizerConfig::from_boxed),
            // Off by default, which no value says.
            None => Some(OptimizerConfig::from_boxed(rule.boxed())),
        }
    }

    #[test]
    fn every_option_of_every_rule_changes_the_result_somewhere() {
        let mut idle = Vec::new();
        for rule in rules::all() {
            let rule = rule.as_ref();
            let variations = variations(rule);
            for (place, _) in Search::new(rule).places() {
                let tells = |v: &Variation| {
                    let changed = v.config.rule.as_ref();
                    at(changed, &place) != at(rule, &place)
                        && without(rule, changed, &place).is_some_and(|base| differ(&base, &v.config).unwrap())
                };
                if !variations.iter().any(tells) {
                    idle.push(format!("{} {place:?}", rule.name()));
                }
            }
        }
        assert!(idle.is_empty(), "no variation shows them: {idle:?}");
    }

    #[test]
    fn every_variation_differs_from_the_default() {
        for rule in rules::all() {
            let plain = OptimizerConfig::from_boxed(rule.boxed());
            for variation in &variations(rule.as_ref())[1..] {
                assert!(differ(&plain, &variation.config).unwrap(), "{} {}", rule.name(), variation.label);
            }
        }
    }

    #[test]
    fn switches_are_combined() {
        let labels: Vec<_> = variations(&Sgd::default()).into_iter().map(|v| v.label).collect();
        assert!(labels.iter().any(|l| l.contains("nesterov=true")), "{labels:?}");
        assert!(labels.iter().any(|l| l.contains("dampening") && l.contains("momentum")), "{labels:?}");
        let amsgrad = variations(&AdamW::default()).into_iter().filter(|v| v.label.contains("amsgrad=true"));
        assert!(amsgrad.count() >= 2, "alone and with all others");
    }
}
