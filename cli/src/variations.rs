//! Options away from their defaults, driven by the options that a rule lists, so that a rule that
//! joins the list is covered without a word here.

use wgpu_optim::{EmaConfig, LossScale, OptimizerConfig, OptionValue, Rule};

/// A configuration with some options changed, and in words which.
#[derive(Debug, Clone)]
pub struct Variation {
    /// Empty where all is default.
    pub label: String,
    pub config: OptimizerConfig,
}

type Change = (&'static str, OptionValue);

/// The rule as it is, each of its options by itself away from its default, every combination of its
/// switches, and as many options at once as go together.
pub fn of_rule(rule: &dyn Rule) -> Vec<Variation> {
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
        Some(Variation { label: label.join(" "), config: OptimizerConfig::from_boxed(changed) })
    };
    sets.into_iter().filter_map(variation).collect()
}

/// What the engine does around a rule, each by itself, where that configuration allows it.
pub fn around(variation: &Variation) -> Vec<Variation> {
    ENGINE.iter().filter_map(|change| changed(variation, std::slice::from_ref(change))).collect()
}

/// As much at once as goes together of what the engine does around a rule.
pub fn all_around(variation: &Variation) -> Variation {
    let allowed: Vec<_> = TOGETHER
        .iter()
        .filter_map(|key| ENGINE.iter().find(|(label, _)| label.starts_with(key)))
        .filter(|change| changed(variation, std::slice::from_ref(*change)).is_some())
        .copied()
        .collect();
    changed(variation, &allowed).unwrap_or_else(|| variation.clone())
}

type EngineChange = (&'static str, fn(&mut OptimizerConfig));

/// Limits are near what the tensors of a check have, so that they bite in some and not in others.
const ENGINE: [EngineChange; 16] = [
    ("maximize=true", |c| c.common.maximize = true),
    ("cautious=true", |c| c.common.cautious = true),
    ("gradient.accumulate=2", |c| c.gradient.accumulate = 2),
    ("gradient.loss_scale=1024", |c| c.gradient.loss_scale = Some(LossScale::Fixed(1024.0))),
    ("gradient.on_nonfinite=\"zero\"", |c| c.gradient.on_nonfinite = wgpu_optim::OnNonfinite::Zero),
    ("gradient.on_nonfinite=\"propagate\"", |c| c.gradient.on_nonfinite = wgpu_optim::OnNonfinite::Propagate),
    ("gradient.clip_value=0.3", |c| c.gradient.clip_value = Some(0.3)),
    ("gradient.clip_global_norm=1", |c| c.gradient.clip_global_norm = Some(1.0)),
    ("gradient.clip_tensor_norm=1", |c| c.gradient.clip_tensor_norm = Some(1.0)),
    ("gradient.clip_max_abs=0.3", |c| c.gradient.clip_max_abs = Some(0.3)),
    ("gradient.clip_adaptive=0.1", |c| c.gradient.clip_adaptive = Some(0.1)),
    ("gradient.normalize_global_norm=2", |c| c.gradient.normalize_global_norm = Some(2.0)),
    ("weights.clip_value=0.8", |c| c.weights.clip_value = Some(0.8)),
    ("weights.max_abs=0.8", |c| c.weights.max_abs = Some(0.8)),
    ("weights.max_norm=5", |c| c.weights.max_norm = Some(5.0)),
    ("ema.decay=0.9", |c| c.ema = Some(EmaConfig { decay: 0.9, warmup: true, interval: 2 })),
];

/// One of each kind.
const TOGETHER: [&str; 8] = [
    "maximize",
    "cautious",
    "gradient.accumulate",
    "gradient.loss_scale",
    "gradient.clip_value",
    "gradient.clip_global_norm",
    "weights.max_norm",
    "ema",
];

fn changed(variation: &Variation, changes: &[EngineChange]) -> Option<Variation> {
    let mut config = variation.config.clone();
    let mut labels: Vec<_> = Some(variation.label.as_str()).into_iter().filter(|l| !l.is_empty()).collect();
    for (label, change) in changes {
        change(&mut config);
        labels.push(label);
    }
    config.check().ok()?;
    Some(Variation { label: labels.join(" "), config })
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
    use wgpu_optim::rules::{AdamW, Lamb, Sgd};

    use super::*;

    #[test]
    fn every_option_of_every_rule_is_away_from_its_default_somewhere() {
        for rule in wgpu_optim::rules::all() {
            let variations = of_rule(rule.as_ref());
            for (index, (key, value)) in rule.options().iter().enumerate() {
                let away = variations.iter().any(|v| v.config.rule.options()[index].1 != *value);
                assert!(away, "{} {key}", rule.name());
            }
        }
    }

    #[test]
    fn switches_are_combined() {
        let labels: Vec<_> = of_rule(&Sgd::default()).into_iter().map(|v| v.label).collect();
        assert!(labels.iter().any(|l| l.contains("nesterov=true")), "{labels:?}");
        let amsgrad = of_rule(&AdamW::default()).into_iter().filter(|v| {
            let options = v.config.rule.options();
            options.iter().any(|(k, v)| *k == "amsgrad" && *v == Some(OptionValue::Bool(true)))
        });
        assert_eq!(amsgrad.count(), 2, "alone and with all others");
    }

    #[test]
    fn the_engine_adds_what_the_rule_allows() {
        let plain =
            |rule: &dyn Rule| Variation { label: String::new(), config: OptimizerConfig::from_boxed(rule.boxed()) };
        let adamw = plain(&AdamW::default());
        assert_eq!(around(&adamw).len(), ENGINE.len());
        assert!(TOGETHER.iter().all(|key| all_around(&adamw).label.contains(key)));
        // A rule that scales by the norm of its update takes no mask.
        let lamb = plain(&Lamb::default());
        assert_eq!(around(&lamb).len(), ENGINE.len() - 1);
        assert!(!all_around(&lamb).label.contains("cautious"));
    }
}
