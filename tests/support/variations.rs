//! A rule's options away from their defaults, driven by the options that it lists, so that a rule
//! that joins the list is covered without a word here.

use wgpu_optim::step::{Plan, Variant};
use wgpu_optim::{Format, Master, OptimizerConfig, OptionValue, Rounding, Rule, StateFormat, StorageConfig};

/// A rule with some options changed, and in words which.
#[derive(Debug, Clone)]
pub struct Variation {
    pub label: String,
    pub rule: Box<dyn Rule>,
}

/// Storages that meet every format, with a master, without, and rounded stochastically; the first is f32.
pub fn storages() -> Vec<StorageConfig> {
    use Format::{Bf16, F16, F32};
    let of = |params, gradients, state| StorageConfig { params, gradients, state, ..StorageConfig::default() };
    vec![
        StorageConfig::default(),
        of(Bf16, Bf16, StateFormat::Bf16),
        of(F16, F16, StateFormat::Q8),
        StorageConfig { rounding: Rounding::Stochastic, seed: 7, ..of(Bf16, Bf16, StateFormat::Bf16) },
        StorageConfig { rounding: Rounding::Stochastic, seed: 8, ..of(Bf16, F32, StateFormat::Q8) },
        StorageConfig { master: Some(Master::None), ..of(F16, Bf16, StateFormat::F32) },
        StorageConfig { master: Some(Master::None), ..of(Bf16, F16, StateFormat::F32) },
        of(F32, F16, StateFormat::Bf16),
        of(F32, F32, StateFormat::Q8),
    ]
}

type Change = (&'static str, OptionValue);

/// The rule as it is, each option by itself away from its default, every combination of options that
/// changes code, and as many options at once as go together.
pub fn variations(rule: &dyn Rule) -> Vec<Variation> {
    let mut all = vec![Variation { label: rule.name().to_owned(), rule: rule.boxed() }];
    let single: Vec<Vec<Change>> = rule.options().iter().map(|(key, _)| change_of(rule, key)).collect();
    all.extend(single.iter().filter_map(|changes| with(rule, changes)));
    all.extend(switch_sets(rule).iter().filter_map(|changes| with(rule, changes)));
    // As many at once as go together.
    let together = single.iter().fold(Vec::new(), |kept, changes| {
        let more = [kept.as_slice(), &changes[..1]].concat();
        if with(rule, &more).is_some() { more } else { kept }
    });
    all.extend(with(rule, &together));
    let mut seen = Vec::new();
    all.retain(|v| {
        let new = !seen.contains(&v.rule.options());
        seen.push(v.rule.options());
        new
    });
    all
}

/// The distinct pieces of code that the rule's options lead to.
pub fn code_variants(rule: &dyn Rule) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    for variation in variations(rule) {
        let variant = variant_of(variation.rule);
        if !variants.iter().any(|known| code_of(known) == code_of(&variant)) {
            variants.push(variant);
        }
    }
    variants
}

/// The variant that a plan makes of a rule.
pub fn variant_of(rule: Box<dyn Rule>) -> Variant {
    Plan::new(&OptimizerConfig::from_boxed(rule), &[]).unwrap().variants.remove(0)
}

fn code_of(variant: &Variant) -> (Vec<(&'static str, bool)>, Vec<usize>, String) {
    (variant.rule.constants(), variant.active.clone(), variant.rule.wgsl().to_owned())
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
        Some(other) => panic!("no other value known for an option that is {other}"),
        None => vec![OptionValue::Number(0.01)],
    }
}

/// A change of one option that the rule accepts, with a second one where the first needs it.
fn change_of(rule: &dyn Rule, key: &'static str) -> Vec<Change> {
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
    alone
        .chain(pairs)
        .find(|changes| with(rule, changes).is_some())
        .unwrap_or_else(|| panic!("no value away from the default found for {} of {}", key, rule.name()))
}

/// Every set of changes among the options that change code.
fn switch_sets(rule: &dyn Rule) -> Vec<Vec<Change>> {
    let plain = code_of(&variant_of(rule.boxed()));
    let switches: Vec<Change> = rule
        .options()
        .iter()
        .flat_map(|(key, _)| change_of(rule, key))
        .filter(|(key, _)| {
            let changed = with(rule, &change_of(rule, key)).unwrap();
            code_of(&variant_of(changed.rule)) != plain
        })
        .fold(Vec::new(), |mut list, change| {
            if !list.iter().any(|(key, _)| *key == change.0) {
                list.push(change);
            }
            list
        });
    (0..1usize << switches.len())
        .map(|set| switches.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, c)| c.clone()).collect())
        .collect()
}

/// The rule with those changes, if it accepts them.
fn with(rule: &dyn Rule, changes: &[Change]) -> Option<Variation> {
    let mut changed = rule.boxed();
    let mut label = rule.name().to_owned();
    for (key, value) in changes {
        changed.set_option(key, value).ok()?;
        label += &format!(" {key}={value}");
    }
    changed.check().ok()?;
    Some(Variation { label, rule: changed })
}
