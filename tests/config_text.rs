//! A configuration that is written reads back as the same, whatever it says.

#![cfg(feature = "serde")]

use proptest::prelude::*;
use wgpu_optim::rules::{self, AdamW, Sgd};
use wgpu_optim::schedule::{Constant, Cosine, Geometric, Kind, Linear, OneCycle, Plateau};
use wgpu_optim::storage::{Format, Master, Rounding, StateFormat};
use wgpu_optim::verify::variations;
use wgpu_optim::{
    DynamicScale, EmaConfig, GradientConfig, Group, LossScale, NoiseConfig, OnNonfinite, OptimizerConfig, OptionValue,
    Options, Schedule, StorageConfig, WeightsConfig,
};

/// Through both forms and back: the text, and serde's TOML and JSON.
fn comes_back(config: &OptimizerConfig) {
    config.check().unwrap();
    let text = config.to_toml();
    let read: OptimizerConfig = toml::from_str(&text).unwrap_or_else(|e| panic!("{e} in\n{text}"));
    let through_serde = toml::to_string(config).unwrap();
    let from_serde: OptimizerConfig =
        toml::from_str(&through_serde).unwrap_or_else(|e| panic!("{e} in\n{through_serde}"));
    let json = serde_json::to_string(config).unwrap();
    let from_json: OptimizerConfig = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e} in\n{json}"));
    for again in [&read, &from_serde, &from_json] {
        assert_eq!(again.to_toml(), text);
        assert_eq!(config.differences(again), []);
        assert_eq!(format!("{:?}", config.rule), format!("{:?}", again.rule));
        assert_eq!(config.common, again.common);
        assert_eq!(config.gradient, again.gradient);
        assert_eq!(config.weights, again.weights);
        assert_eq!(config.ema, again.ema);
        assert_eq!(config.noise, again.noise);
        assert_eq!(config.storage, again.storage);
        assert_eq!(config.schedule, again.schedule);
        assert_eq!(config.groups.len(), again.groups.len());
        for (group, other) in config.groups.iter().zip(&again.groups) {
            assert_eq!((&group.pattern, group.frozen), (&other.pattern, other.frozen));
            let rule = |group: &Group| group.rule.as_ref().map(|rule| rule.name());
            assert_eq!(rule(group), rule(other));
            // What its tensors come to.
            let of = |config: &OptimizerConfig, group: &Group| {
                let specs = [wgpu_optim::TensorSpec::new("tensor", [4])];
                let alone = Group { pattern: "tensor".to_owned(), ..group.clone() };
                let config = OptimizerConfig { groups: vec![alone], ..config.clone() };
                let plan = wgpu_optim::plan::Plan::new(&config, &specs).unwrap();
                let own = &plan.groups[1];
                format!("{:?} {:?} {:?} {}", own.rule, own.common, own.storage, own.frozen)
            };
            assert_eq!(of(config, group), of(again, other));
        }
    }
}

#[test]
fn every_rule_with_every_option_away_from_its_default() {
    for rule in rules::all() {
        for variation in variations(rule.as_ref()) {
            let config = OptimizerConfig::from_boxed(variation.config.rule.boxed());
            comes_back(&config);
            // The same as a group's own, some of it as the group's options.
            let mut group = Group::matching("layer.*");
            group.rule = Some(variation.config.rule.boxed());
            comes_back(&OptimizerConfig::new(Sgd::default()).group(group.clone()));
            for (key, value) in variation.config.rule.options() {
                group.options.extend(value.map(|value| (key.to_owned(), value)));
            }
            group.rule = Some(rule.boxed());
            comes_back(&OptimizerConfig::new(Sgd::default()).group(group));
        }
    }
}

fn everything() -> OptimizerConfig {
    let mut config = OptimizerConfig::new(AdamW { lr: 3e-4, ..AdamW::default() })
        .group(Group::matching("*.bias").set("weight_decay", 0.0).set("lr", 1.0).set("lr", 1e-300))
        .group(Group::matching("say \"\\\u{7f}\t\u{1}\n√{a,b}[!c]?").frozen())
        .group(Group::matching("head.*").rule(Sgd { momentum: 0.9, nesterov: true, ..Sgd::default() }).set("lr", 0.5))
        .group(Group::matching("body.*").set("params", "f32").set("state", "q8").set("maximize", false))
        .gradient(GradientConfig {
            accumulate: 1 << 20,
            on_nonfinite: OnNonfinite::Skip,
            loss_scale: Some(LossScale::Dynamic(DynamicScale {
                init: 1024.5,
                growth_factor: 3.0,
                backoff_factor: 0.1,
                growth_interval: u32::MAX,
            })),
            clip_value: Some(0.1 + 0.2),
            clip_adaptive: Some(f64::from(f32::MAX)),
            ..GradientConfig::default()
        })
        .weights(WeightsConfig { clip_value: Some(2.0), max_abs: Some(1e20), max_norm: None })
        .ema(EmaConfig { decay: 1.0 - 1e-12, warmup: true, interval: 0x7fff_ffff })
        .noise(NoiseConfig { temperature: 1e-300, seed: u64::MAX - 1 })
        .storage(StorageConfig {
            params: Format::Bf16,
            gradients: Format::F16,
            state: StateFormat::Bf16,
            master: Some(Master::F32),
            rounding: Rounding::Nearest,
            seed: u64::MAX,
        });
    config.common.maximize = true;
    config.common.cautious = true;
    config
}

#[test]
fn all_tables_at_once() {
    comes_back(&everything());
    let mut config = everything();
    for key in ["clip_global_norm", "clip_tensor_norm", "clip_max_abs", "clip_adaptive", "normalize_global_norm"] {
        config.gradient = GradientConfig::default();
        config.gradient.set_option(key, &OptionValue::Number(0.7)).unwrap();
        config.gradient.loss_scale = Some(LossScale::Fixed(1.0 / 1024.0));
        for on_nonfinite in [OnNonfinite::Zero, OnNonfinite::Propagate] {
            config.gradient.on_nonfinite = on_nonfinite;
            comes_back(&config);
        }
    }
    config.weights = WeightsConfig { clip_value: None, max_abs: None, max_norm: Some(5.0) };
    config.storage = StorageConfig {
        params: Format::Bf16,
        master: Some(Master::None),
        rounding: Rounding::Stochastic,
        // Past what a float holds.
        seed: (1 << 53) + 1,
        ..StorageConfig::default()
    };
    config.ema = None;
    comes_back(&config);
    config.storage = StorageConfig { rounding: Rounding::Stochastic, master: None, ..config.storage };
    comes_back(&config);
}

/// Each with something set in every option, so that the list of kinds needs no second list here.
#[test]
fn every_schedule_and_sequences_of_them() {
    let mut all = Vec::new();
    for name in Kind::NAMES {
        let mut schedule = Schedule { kind: Kind::by_name(name).unwrap(), warmup_steps: 17, then: Vec::new() };
        let keys = [
            ("step_size", OptionValue::Number(3.0)),
            ("gamma", OptionValue::Number(0.1 + 0.2)),
            ("milestones", OptionValue::Numbers(vec![3.0, 7.0, 4e9])),
            ("decay", OptionValue::Number(1e-300)),
            ("total_steps", OptionValue::Number(1e15)),
            ("end_factor", OptionValue::Number(0.3)),
            ("power", OptionValue::Number(2.5)),
            ("min_lr", OptionValue::Number(1e-30)),
            ("period", OptionValue::Number(9.0)),
            ("multiplier", OptionValue::Number(3.0)),
            ("max_lr", OptionValue::Number(0.7)),
            ("pct_start", OptionValue::Number(0.25)),
            ("anneal_strategy", OptionValue::from("linear")),
            ("div_factor", OptionValue::Number(11.0)),
            ("final_div_factor", OptionValue::Number(1e5)),
            ("three_phase", OptionValue::Bool(true)),
            ("mode", OptionValue::from("max")),
            ("factor", OptionValue::Number(0.9)),
            ("patience", OptionValue::Number(4.0)),
            ("threshold", OptionValue::Number(0.01)),
            ("threshold_mode", OptionValue::from("abs")),
            ("cooldown", OptionValue::Number(5.0)),
            ("eps", OptionValue::Number(1e-9)),
        ];
        let set = keys.iter().filter(|(key, value)| schedule.set_option(key, value).is_ok()).count();
        // A key that this list lacks would stay at its default.
        let text = OptimizerConfig::new(Sgd::default()).schedule(schedule.clone()).to_toml();
        let written = text.split("[schedule]").nth(1).unwrap().trim().lines().count();
        assert_eq!(written, set + 2, "{name}: {text}");
        comes_back(&OptimizerConfig::new(Sgd::default()).schedule(schedule.clone()));
        all.push(schedule);
    }
    let alone = |schedule: &Schedule| matches!(schedule.kind, Kind::Plateau(_));
    let sequence = all.into_iter().filter(|s| !alone(s)).reduce(|whole, next| whole.then(40, next)).unwrap();
    comes_back(&OptimizerConfig::new(Sgd::default()).schedule(sequence));
    comes_back(&OptimizerConfig::new(Sgd::default()).schedule(Plateau { patience: u64::MAX, ..Plateau::default() }));
    let endless = OneCycle { total_steps: u64::MAX - 1, max_lr: 1.0, ..OneCycle::default() };
    comes_back(&OptimizerConfig::new(Sgd::default()).schedule(endless));
}

#[test]
fn the_text_has_one_order_and_says_all() {
    let config = OptimizerConfig::new(Sgd { lr: 0.5, ..Sgd::default() })
        .group(Group::matching("*.bias").set("weight_decay", 0.0).set("lr", 2.0));
    let expected = "[optimizer]\nrule = \"sgd\"\nlr = 0.5\nmomentum = 0\ndampening = 0\nnesterov = false\n\
                    weight_decay = 0\nmaximize = false\ncautious = false\n\n\
                    [[groups]]\nmatch = \"*.bias\"\nlr = 2\nweight_decay = 0\n\n\
                    [gradient]\naccumulate = 1\non_nonfinite = \"skip\"\n\n\
                    [storage]\nparams = \"f32\"\ngradients = \"f32\"\nstate = \"f32\"\nrounding = \"nearest\"\nseed = 0\n\n\
                    [schedule]\nkind = \"constant\"\nwarmup_steps = 0\n";
    assert_eq!(config.to_toml(), expected);
    // In whatever order options were given.
    let turned = OptimizerConfig::new(Sgd { lr: 0.5, ..Sgd::default() })
        .group(Group::matching("*.bias").set("lr", 2.0).set("weight_decay", 1.0).set("weight_decay", 0.0));
    assert_eq!(turned.to_toml(), expected);
}

#[test]
fn differences_are_told_key_by_key() {
    let of = |text: &str| toml::from_str::<OptimizerConfig>(text).unwrap();
    let before = of("[optimizer]\nrule = \"sgd\"\nlr = 0.1\n[[groups]]\nmatch = \"a\"\nlr = 1\n[ema]\ndecay = 0.9\n\
                     [noise]\ntemperature = 0.5\n");
    let after = of("[optimizer]\nrule = \"sgd\"\nlr = 0.25\n[[groups]]\nmatch = \"a\"\nfrozen = true\n\
                    [[groups]]\nmatch = \"b\"\n[gradient]\nclip_value = 1\n[schedule]\nkind = \"constant\"\n\
                    [[schedule.then]]\nafter = 3\nkind = \"constant\"\n");
    let told: Vec<_> = before.differences(&after).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "optimizer.lr: 0.1, now 0.25",
            "groups[0].lr: 1, now none",
            "ema.decay: 0.9, now none",
            "ema.warmup: false, now none",
            "ema.interval: 1, now none",
            "noise.temperature: 0.5, now none",
            "noise.seed: 0, now none",
            "groups[0].frozen: none, now true",
            "groups[1].match: none, now \"b\"",
            "gradient.clip_value: none, now 1",
            "schedule.then[0].after: none, now 3",
            "schedule.then[0].kind: none, now \"constant\"",
            "schedule.then[0].warmup_steps: none, now 0",
        ]
    );
    assert_eq!(before.differences(&before), []);
}

proptest! {
    #[test]
    fn any_number_and_any_name(lr in 0.0..1e38f64, bits in any::<u64>(), seed in any::<u64>(), name in ".*") {
        let eps = f64::from_bits(bits);
        let mut config = OptimizerConfig::new(AdamW { lr, ..AdamW::default() }).group(Group::matching(name).frozen());
        if config.check().is_ok() {
            config.gradient.clip_value = Some(eps);
            if config.check().is_err() {
                config.gradient.clip_value = None;
            }
            config.storage.seed = seed;
            comes_back(&config);
        }
    }
}

/// Everything about groups' names, scales and schedules goes out as it came in.
#[test]
fn names_scales_and_schedules_come_back() {
    let text = r#"
        [optimizer]
        rule = "adamw"

        [[groups]]
        match = "*.bias"
        name = "no decay"
        weight_decay = 0
        clip = false
        lr_scale = 0.1

        [groups.schedule]
        kind = "cosine"
        total_steps = 10
        min_lr = 1e-5

        [[groups.schedule.then]]
        after = 20
        kind = "constant"

        [groups.schedules.beta1]
        kind = "linear"
        total_steps = 10
        end_factor = 0.5

        [[groups]]
        match = "head"
        state = "q8"

        [schedules.weight_decay]
        kind = "cosine"
        total_steps = 10
        min_value = 1e-3
        warmup_steps = 2

        [[schedules.weight_decay.then]]
        after = 7
        kind = "geometric"
        total_steps = 5
        min_value = 1e-4
    "#;
    let config: OptimizerConfig = toml::from_str(text).unwrap();
    comes_back(&config);
    let group = &config.groups[0];
    assert_eq!((group.name.as_deref(), group.clip, group.lr_scale), (Some("no decay"), false, 0.1));
    assert_eq!(group.schedule.as_ref().unwrap().then.len(), 1);
    assert!(group.schedules.contains_key("beta1") && config.schedules.contains_key("weight_decay"));
    let written = config.to_toml();
    assert!(written.contains("min_value = ") && written.contains("[[schedules.weight_decay.then]]"), "{written}");
    // The same in Rust.
    let decay = Schedule::from(Cosine { total_steps: 10, min_lr: 1e-3 }).with_warmup(2);
    let built = OptimizerConfig::new(AdamW::default())
        .option_schedule("weight_decay", decay.then(7, Geometric { total_steps: 5, min_lr: 1e-4 }))
        .group(
            Group::matching("*.bias")
                .named("no decay")
                .set("weight_decay", 0.0)
                .unclipped()
                .lr_scale(0.1)
                .schedule(Schedule::from(Cosine { total_steps: 10, min_lr: 1e-5 }).then(20, Constant {}))
                .option_schedule("beta1", Linear { total_steps: 10, end_factor: 0.5 }),
        )
        .group(Group::matching("head").set("state", "q8"));
    assert_eq!(config.differences(&built), []);
    let mut other = built.clone();
    other.groups[0].schedule = None;
    other.schedules.clear();
    let keys: Vec<_> = built.differences(&other).into_iter().map(|difference| difference.key).collect();
    assert!(keys.contains(&"groups[0].schedule.kind".to_owned()), "{keys:?}");
    assert!(keys.contains(&"schedules.weight_decay.min_value".to_owned()), "{keys:?}");
    for (wrong, words) in [
        (
            "[optimizer]\nrule = \"adamw\"\n[schedules.eps]\nkind = \"cosine\"\ntotal_steps = 5\nmin_lr = 1",
            "allowed are total_steps, min_value",
        ),
        ("[optimizer]\nrule = \"adamw\"\n[schedules.eps]\nmin_value = 1", "schedules.eps.kind: is missing"),
        (
            "[optimizer]\nrule = \"adamw\"\n[[groups]]\nmatch = \"a\"\nlr_scale = \"x\"",
            "groups.\"a\".lr_scale: expected a number",
        ),
        (
            "[optimizer]\nrule = \"adamw\"\n[[groups]]\nmatch = \"a\"\nclip = 1",
            "groups.\"a\".clip: expected true or false",
        ),
        (
            "[optimizer]\nrule = \"adamw\"\n[[groups]]\nmatch = \"a\"\n[groups.schedule]\nkind = \"wave\"",
            "groups.\"a\".schedule.kind: unknown kind",
        ),
    ] {
        let error = toml::from_str::<OptimizerConfig>(wrong).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}
