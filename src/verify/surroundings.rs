//! What the engine does around a rule, away from its defaults.

use super::Variation;
use crate::config::schedule::{Exponential, Linear};
use crate::config::{DynamicScale, EmaConfig, Group, LossScale, NoiseConfig, OnNonfinite, OptimizerConfig};
use crate::options::OptionValue;

/// What the engine does around a rule, each by itself, where that configuration allows it.
pub fn around(variation: &Variation) -> Vec<Variation> {
    ENGINE.iter().filter_map(|change| changed(variation, std::slice::from_ref(change))).collect()
}

/// As much at once as goes together of what the engine does around a rule.
pub fn all_around(variation: &Variation) -> Variation {
    changed(variation, &together(variation)).unwrap_or_else(|| variation.clone())
}

type Change = (&'static str, fn(&mut OptimizerConfig));

/// Limits are near what the tensors of a check have, so that they bite in some and not in others.
const ENGINE: [Change; 21] = [
    ("maximize=true", |c| c.common.maximize = true),
    ("cautious=true", |c| c.common.cautious = true),
    ("gradient.accumulate=2", |c| c.gradient.accumulate = 2),
    ("gradient.loss_scale=1024", |c| c.gradient.loss_scale = Some(LossScale::Fixed(1024.0))),
    ("gradient.loss_scale={growth_interval=2}", |c| {
        let scale = DynamicScale { init: 8.0, growth_factor: 4.0, backoff_factor: 0.25, growth_interval: 2 };
        c.gradient.loss_scale = Some(LossScale::Dynamic(scale));
    }),
    ("gradient.on_nonfinite=\"zero\"", |c| c.gradient.on_nonfinite = OnNonfinite::Zero),
    // What is not tested differs only where a gradient is not finite, and there WGSL promises nothing.
    ("gradient.on_nonfinite=\"propagate\"", |c| c.gradient.on_nonfinite = OnNonfinite::Propagate),
    ("gradient.clip_value=0.3", |c| c.gradient.clip_value = Some(0.3)),
    ("gradient.clip_global_norm=1", |c| c.gradient.clip_global_norm = Some(1.0)),
    ("gradient.clip_tensor_norm=1", |c| c.gradient.clip_tensor_norm = Some(1.0)),
    ("gradient.clip_max_abs=0.3", |c| c.gradient.clip_max_abs = Some(0.3)),
    ("gradient.clip_adaptive=0.1", |c| c.gradient.clip_adaptive = Some(0.1)),
    ("gradient.normalize_global_norm=2", |c| c.gradient.normalize_global_norm = Some(2.0)),
    ("weights.clip_value=0.8", |c| c.weights.clip_value = Some(0.8)),
    ("weights.max_abs=0.8", |c| c.weights.max_abs = Some(0.8)),
    ("weights.max_norm=5", |c| c.weights.max_norm = Some(5.0)),
    ("ema={decay=0.9 warmup=true interval=2}", |c| {
        c.ema = Some(EmaConfig { decay: 0.9, warmup: true, interval: 2 });
    }),
    ("groups.clip=false beside gradient.clip_global_norm=1", |c| {
        c.gradient.clip_global_norm = Some(1.0);
        c.groups.push(Group::matching("tensor1").unclipped());
    }),
    ("groups.lr_scale=0.5 groups.schedule={exponential}", |c| {
        c.groups.push(Group::matching("tensor1").lr_scale(0.5).schedule(Exponential { gamma: 0.5 }));
    }),
    ("schedules.weight_decay={linear}", |c| {
        // Rules without one are told by the schedule that acts on nothing.
        let _ = c.rule.set_option("weight_decay", &OptionValue::Number(0.1));
        c.schedules.insert("weight_decay".to_owned(), Linear { total_steps: 4, end_factor: 0.1 }.into());
    }),
    ("noise={temperature=1e-4 seed=1}", |c| c.noise = Some(NoiseConfig { temperature: 1e-4, seed: 1 })),
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

/// Those that the configuration allows.
fn together(variation: &Variation) -> Vec<Change> {
    TOGETHER
        .iter()
        .filter_map(|key| ENGINE.iter().find(|(label, _)| label.starts_with(key)))
        .filter(|change| changed(variation, std::slice::from_ref(*change)).is_some())
        .copied()
        .collect()
}

fn changed(variation: &Variation, changes: &[Change]) -> Option<Variation> {
    let mut config = variation.config.clone();
    let mut labels: Vec<_> = Some(variation.label.as_str()).into_iter().filter(|l| !l.is_empty()).collect();
    for (label, change) in changes {
        change(&mut config);
        labels.push(label);
    }
    config.check().ok()?;
    Some(Variation { label: labels.join(" "), config })
}

#[cfg(test)]
mod tests {
    use super::super::differ;
    use super::*;
    use crate::config::GradientConfig;
    use crate::config::WeightsConfig;
    use crate::options::Options;
    use crate::rules::{self, AdamW, Lamb};

    #[test]
    fn the_engine_adds_what_the_rule_allows() {
        let adamw = Variation::plain(&AdamW::default());
        assert_eq!(around(&adamw).len(), ENGINE.len());
        assert!(TOGETHER.iter().all(|key| all_around(&adamw).label.contains(key)));
        // A rule that scales by the norm of its update takes no mask.
        let lamb = Variation::plain(&Lamb::default());
        assert_eq!(around(&lamb).len(), ENGINE.len() - 1);
        assert!(!all_around(&lamb).label.contains("cautious"));
    }

    #[test]
    fn every_option_of_the_engine_is_away_from_its_default_somewhere() {
        let all = around(&Variation::plain(&AdamW::default()));
        let keys = |prefix: &str, options: &dyn Options| -> Vec<String> {
            options.options().iter().map(|(key, _)| format!("{prefix}{key}")).collect()
        };
        let names = [
            keys("", &crate::config::CommonOptions::default()),
            keys("gradient.", &GradientConfig::default()),
            keys("weights.", &WeightsConfig::default()),
        ];
        for name in names.into_iter().flatten() {
            assert!(all.iter().any(|v| v.label.starts_with(&name)), "{name}");
        }
        let ema = EmaConfig::default().options();
        let averaged = all.iter().find_map(|v| v.config.ema.clone()).unwrap().options();
        assert!(ema.iter().zip(&averaged).all(|(a, b)| a != b));
        let noise = NoiseConfig::default().options();
        let noisy = all.iter().find_map(|v| v.config.noise.clone()).unwrap().options();
        assert!(noise.iter().zip(&noisy).all(|(a, b)| a != b));
    }

    /// Changes that scale the gradient of a whole tensor do nothing to a rule that divides by its norm.
    fn idle_by_design(rule: &str, label: &str) -> bool {
        let scales = ["loss_scale", "global_norm", "tensor_norm", "clip_max_abs"];
        label.contains("propagate") || rule == "lars" && scales.iter().any(|key| label.contains(key))
    }

    #[test]
    fn every_option_of_the_engine_changes_the_result_of_every_rule() {
        for rule in rules::all() {
            let plain = Variation::plain(rule.as_ref());
            for variation in around(&plain) {
                let changes = differ(&plain.config, &variation.config).unwrap();
                let expected = !idle_by_design(rule.name(), &variation.label);
                assert_eq!(changes, expected, "{} {}", rule.name(), variation.label);
            }
        }
    }

    /// What one does must not be undone by the next.
    #[test]
    fn each_of_those_together_changes_the_result() {
        for rule in rules::all() {
            let plain = Variation::plain(rule.as_ref());
            let (changes, whole) = (together(&plain), all_around(&plain));
            for (index, (label, _)) in changes.iter().enumerate() {
                let mut others = changes.clone();
                others.remove(index);
                let differs = differ(&changed(&plain, &others).unwrap().config, &whole.config).unwrap();
                assert!(differs || idle_by_design(rule.name(), label), "{} {label}", rule.name());
            }
        }
    }
}
