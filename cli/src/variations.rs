//! Configurations to check: a rule's options away from their defaults, and what the engine does around a rule.

use wgpu_optim::verify::{self, RuleVariation};
use wgpu_optim::{EmaConfig, LossScale, OptimizerConfig, Rule};

/// A configuration with some options changed, and in words which.
#[derive(Debug, Clone)]
pub struct Variation {
    /// Empty where all is default.
    pub label: String,
    pub config: OptimizerConfig,
}

/// The rule's options away from their defaults.
pub fn of_rule(rule: &dyn Rule) -> Vec<Variation> {
    let variation = |RuleVariation { label, rule }| Variation { label, config: OptimizerConfig::from_boxed(rule) };
    verify::variations(rule).into_iter().map(variation).collect()
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

#[cfg(test)]
mod tests {
    use wgpu_optim::rules::{AdamW, Lamb};

    use super::*;

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
