//! Options together, for every rule of the list: the GPU against the oracle through the library's own
//! `verify`, which judges as the cross check does.

mod support;

use support::gpu;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{
    EmaConfig, Group, LossScale, OnNonfinite, OptimizerConfig, Reduction, Rule, Schedule, WeightsConfig, rules, verify,
};

/// Groups that override what every rule has, and one that is left alone.
fn grouped(rule: &dyn Rule) -> OptimizerConfig {
    let lr = if rule.lr() < 1e-2 { 10.0 * rule.lr() } else { rule.lr() };
    let mut config = OptimizerConfig::from_boxed(rule.boxed())
        .group(Group::matching("tensor2").set("lr", 2.0 * lr))
        .group(Group::matching("tensor1").frozen());
    // Large enough that updates show beside the parameters.
    config.rule.set_option("lr", &lr.into()).unwrap();
    config
}

fn check(config: impl Fn(&dyn Rule) -> OptimizerConfig, steps: usize) {
    let mut misses = Vec::new();
    for rule in rules::all() {
        let config = config(rule.as_ref());
        let findings = verify::compare(&gpu(), &config, steps).unwrap();
        assert!(findings.iter().any(|f| f.what == "parameters" && f.error > 0.0), "{} did nothing", rule.name());
        misses.extend(findings.into_iter().filter(|f| !f.passed()).map(|f| format!("{}: {f:?}", rule.name())));
    }
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn groups_clip_warm_up_cosine_and_accumulation() {
    check(
        |rule| {
            let mut config = grouped(rule)
                .clip_global_norm(1.0)
                .schedule(Schedule::from(Cosine { total_steps: 8, min_lr: 1e-6 }).with_warmup(2));
            config.gradient.accumulate = 2;
            config
        },
        20,
    );
}

#[test]
fn limits_of_weights_an_average_of_them_and_a_loss_scale() {
    check(
        |rule| {
            let weights = WeightsConfig { clip_value: Some(0.9), max_norm: Some(20.0), ..WeightsConfig::default() };
            let mut config = grouped(rule).weights(weights).ema(EmaConfig { decay: 0.9, warmup: true, interval: 2 });
            config.gradient.loss_scale = Some(LossScale::Fixed(1024.0));
            config.gradient.on_nonfinite = OnNonfinite::Zero;
            config.gradient.clip_tensor_norm = Some(1e-3);
            config
        },
        8,
    );
}

#[test]
fn ascent_with_a_cautious_mask() {
    check(
        |rule| {
            let mut config = grouped(rule);
            config.common.maximize = true;
            config.common.cautious = rule.reduction() == Reduction::None;
            config.gradient.on_nonfinite = OnNonfinite::Propagate;
            config
        },
        8,
    );
}
