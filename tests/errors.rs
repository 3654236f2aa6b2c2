//! Bad configurations and states get an error that names the tensor, the group or the key, before anything is
//! changed.

mod support;

use support::errors::{assert_option, assert_says};
use support::gpu;
use support::model::{Model, Place};
use support::oracle::Run;
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{
    Arena, EmaConfig, Error, GradientConfig, Group, OnNonfinite, Optimizer, OptimizerConfig, OptionValue, Options,
    TensorSpec, rules,
};

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let gpu = gpu();
    let new = |config: OptimizerConfig| {
        let arena = Arena::new(&gpu, [TensorSpec::new("layer.weight", [2]), TensorSpec::new("layer.bias", [2])]);
        let made = Optimizer::new(&gpu, &config, arena.unwrap().tensors().to_vec()).map(drop);
        // Both backends share the plan.
        let specs = [TensorSpec::new("layer.weight", [2]), TensorSpec::new("layer.bias", [2])];
        let cpu = wgpu_optim::cpu::CpuOptimizer::<f32>::new(&config, &specs).map(drop);
        assert_eq!(made, cpu);
        made
    };
    let group = |pattern: &str| new(adamw().group(Group::matching(pattern)));
    for (pattern, words) in [("*.scale", ["*.scale", "matches no tensor"]), ("layer[", ["layer[", "unclosed"])] {
        match group(pattern).unwrap_err() {
            error @ Error::Group { .. } => assert_says(&error.to_string(), &words),
            other => panic!("{other}"),
        }
    }
    // The first match wins, and must leave the others something.
    let says = |config: OptimizerConfig, words: &str| match new(config).unwrap_err() {
        Error::Group { pattern, problem } => assert_eq!(format!("{pattern}: {problem}"), words),
        other => panic!("{other}"),
    };
    let bias = || Group::matching("*.bias");
    let both = Group::matching("*");
    says(adamw().group(both).group(bias()), "*.bias: all tensors that it matches belong to earlier groups: \"*\"");
    let each = adamw().group(bias()).group(Group::matching("*.weight")).group(Group::matching("layer.*"));
    says(each, "layer.*: all tensors that it matches belong to earlier groups: \"*.bias\", \"*.weight\"");
    says(adamw().group(bias()).group(bias()), "*.bias: is given twice, and the first has all its tensors");
    new(adamw().group(bias()).group(Group::matching("layer.*"))).unwrap();

    let set =
        |key: &str, value: OptionValue| new(adamw().group(Group::matching("*.bias").set(key, value))).unwrap_err();
    let table = "groups.\"*.bias\"";
    assert_option(&set("momentum", OptionValue::Number(0.9)), table, "momentum");
    assert_option(&set("lr", OptionValue::Number(-1.0)), table, "lr");
    assert_option(&set("lr", OptionValue::Bool(true)), table, "lr");
    assert_option(&set("betas", OptionValue::Numbers(vec![0.9])), table, "betas");
    // An option of the optimizer's rule does not pass on to another rule of a group.
    let other = Group::matching("*.bias").rule(Sgd::default()).set("betas", [0.5, 0.5]);
    assert_option(&new(adamw().group(other)).unwrap_err(), table, "betas");
}

/// A name is a glob that matches it, whatever stands in it; and characters are characters, not bytes.
#[test]
fn names_match_themselves_and_characters_are_whole() {
    let names = ["layers[0].weight", "layers0.weight", "a{b", "c[", "d\\e", "schön", "öl", "**/x"];
    let specs = names.map(|name| TensorSpec::new(name, [1]));
    let groups = |patterns: &[&str]| -> Vec<usize> {
        let config = patterns.iter().fold(adamw(), |config, pattern| config.group(Group::matching(*pattern)));
        wgpu_optim::plan::Plan::new(&config, &specs).unwrap().tensors.iter().map(|t| t.group).collect()
    };
    assert_eq!(groups(&["layers[0].weight"]), [1, 1, 0, 0, 0, 0, 0, 0], "the name, and what the class matches");
    assert_eq!(groups(&["layers[[]0[]].weight"]), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(groups(&["a{b", "c[", "d\\e", "**/x"]), [0, 0, 1, 2, 3, 0, 0, 4], "no globs, and names");
    assert_eq!(groups(&["sch?n", "[ö]?"]), [0, 0, 0, 0, 0, 1, 2, 0]);
    // No text is too much.
    for pattern in ["{".repeat(125) + "w" + &"}".repeat(125), "?".repeat(300_000), "{".repeat(100_000)] {
        let config = adamw().group(Group::matching(pattern));
        assert!(matches!(wgpu_optim::plan::Plan::new(&config, &specs), Err(Error::Group { .. })));
    }
}

#[test]
fn a_limit_that_is_set_stays_in_either_order() {
    let zero = || GradientConfig { on_nonfinite: OnNonfinite::Zero, ..GradientConfig::default() };
    let one = adamw().clip_global_norm(1.0).gradient(zero());
    let other = adamw().gradient(zero()).clip_global_norm(1.0);
    assert_eq!(one.gradient, other.gradient);
    assert_eq!((one.gradient.clip_global_norm, one.gradient.on_nonfinite), (Some(1.0), OnNonfinite::Zero));
    // The later of two, and two kinds of limits are too many.
    let own = adamw().clip_global_norm(1.0).gradient(GradientConfig { clip_global_norm: Some(2.0), ..zero() });
    assert_eq!(own.gradient.clip_global_norm, Some(2.0));
    let two = adamw().clip_global_norm(1.0).gradient(GradientConfig { clip_tensor_norm: Some(2.0), ..zero() });
    assert_option(&two.check().unwrap_err(), "gradient", "clip_tensor_norm");
}

/// A call out of turn or with the wrong number of tensors is no fault of the configuration.
#[test]
fn calls_that_cannot_be_served_are_named() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [2])];
    let config = adamw().ema(EmaConfig::default());
    let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0, 2.0]], Place::Arena);
    let mut cpu = CpuOptimizer::<f32>::new(&config, &specs).unwrap();
    let mut w = ndarray::Array1::<f32>::zeros(2).into_dyn();
    support::submit(&gpu, |encoder| model.optimizer.swap_ema(encoder).unwrap());
    cpu.swap_ema(&mut [w.view_mut()]).unwrap();
    let mut encoder = support::encoder(&gpu);
    let refused = model.optimizer.step(&mut encoder).unwrap_err();
    let gradient = w.clone();
    let tensor = CpuTensor { params: w.view_mut(), gradient: Some(gradient.view()) };
    assert_eq!(cpu.step(&mut [tensor]).unwrap_err(), refused);
    assert_says(&refused.to_string(), &["step: the moving average"]);
    let optimizer = &mut model.optimizer;
    let errors = [
        refused,
        optimizer.begin_evaluation(&mut encoder).unwrap_err(),
        optimizer.end_evaluation(&mut encoder).unwrap_err(),
        optimizer.remove_tensors(&["w"]).unwrap_err(),
        cpu.remove_tensors(&["w"]).unwrap_err(),
        cpu.swap_ema(&mut []).unwrap_err(),
        cpu.evaluation_weights(&[]).unwrap_err(),
        gpu.set_workgroup_size(3).unwrap_err(),
    ];
    for error in errors {
        let Error::Call { call, problem } = &error else { panic!("{error:?}") };
        assert_eq!(error.to_string(), format!("{call}: {problem}"));
        assert!(!call.is_empty() && !problem.is_empty());
    }
}

/// Options whose range holds −1.
const MAY_BE_NEGATIVE: [(&str, &str); 2] = [("sgd", "dampening"), ("adafactor", "beta2_decay")];

#[test]
fn impossible_hyperparameters_are_refused_by_key() {
    for rule in rules::all() {
        for (key, value) in rule.options() {
            let lists = |x: f64| match &value {
                Some(OptionValue::Number(_)) => vec![OptionValue::Number(x)],
                Some(OptionValue::Numbers(list)) => {
                    let at = |i: usize| {
                        let mut list = list.clone();
                        list[i] = x;
                        OptionValue::Numbers(list)
                    };
                    (0..list.len()).map(at).collect()
                }
                _ => Vec::new(),
            };
            let mut bad = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0];
            bad.retain(|x| *x != -1.0 || !MAY_BE_NEGATIVE.contains(&(rule.name(), key)));
            if matches!(key, "betas" | "beta" | "rho" | "alpha") {
                bad.extend([1.0, 1.5]);
            }
            // Where it may be 0 by default, nothing is divided by it alone.
            if key == "eps" && value != Some(OptionValue::Number(0.0)) {
                // Subnormal numbers are zero on many GPUs.
                bad.extend([0.0, 1e-40]);
            }
            let fine = |value: &OptionValue| {
                // Of a pair only the first divides.
                matches!(value, OptionValue::Numbers(list) if key == "eps" && (0.0..1e-3).contains(&list[1]))
            };
            for value in bad.into_iter().flat_map(lists).filter(|value| !fine(value)) {
                let mut config = OptimizerConfig::from_boxed(rule.clone());
                // A whole number takes none of these in the first place.
                if let Err(error) = config.rule.set_option(key, &value) {
                    assert_eq!(error.key, key);
                    assert_says(&error.problem, &["expected a whole number"]);
                    continue;
                }
                let error = config.check().expect_err(&format!("{} with {key} = {value}", rule.name()));
                assert_option(&error, "optimizer", key);
            }
            // A wrong type.
            let wrong = OptionValue::from("much");
            let error = rule.clone().set_option(key, &wrong).unwrap_err();
            assert_eq!(error.key, key);
            assert_says(&error.problem, &["expected", "\"much\""]);
        }
        let error = rule.clone().set_option("learning_rate", &OptionValue::Number(0.1)).unwrap_err();
        let all: Vec<_> = rule.options().iter().map(|(key, _)| *key).collect();
        assert_says(&error.to_string(), &[&["learning_rate", "unknown key"], all.as_slice()].concat());
    }
    let nesterov = OptimizerConfig::new(Sgd { nesterov: true, ..Sgd::default() });
    assert_option(&nesterov.check().unwrap_err(), "optimizer", "nesterov");
}

#[test]
fn impossible_conditioning_is_refused_by_key() {
    for key in ["clip_value", "clip_global_norm", "normalize_global_norm"] {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-40, 1e39] {
            let mut config = adamw();
            config.gradient.set_option(key, &OptionValue::Number(value)).unwrap();
            assert_option(&config.check().unwrap_err(), "gradient", key);
        }
    }
    let mut config = adamw().clip_global_norm(1.0);
    config.gradient.normalize_global_norm = Some(1.0);
    assert_option(&config.check().unwrap_err(), "gradient", "normalize_global_norm");
}

fn toml(text: &str) -> Result<OptimizerConfig, String> {
    toml::from_str(text).map_err(|e: toml::de::Error| e.to_string())
}

#[test]
fn a_configuration_file_is_read_whole() {
    let config = toml(
        r#"
        [optimizer]
        rule = "adamw"
        lr = 2e-3
        betas = [0.8, 0.9]
        [[groups]]
        match = "*.bias"
        weight_decay = 0
        [[groups]]
        match = "head.*"
        rule = "sgd"
        momentum = 0.5
        [[groups]]
        match = "embed.*"
        frozen = true
        [gradient]
        on_nonfinite = "zero"
        clip_value = 0.5
        [schedule]
        kind = "cosine"
        total_steps = 100
        min_lr = 1e-5
        warmup_steps = 7
        "#,
    )
    .unwrap();
    let value = |key: &str| config.rule.options().into_iter().find(|(k, _)| *k == key).unwrap().1.unwrap();
    assert_eq!((config.rule.name(), value("lr")), ("adamw", OptionValue::Number(2e-3)));
    assert_eq!(value("betas"), OptionValue::Numbers(vec![0.8, 0.9]));
    assert_eq!(config.groups.len(), 3);
    assert_eq!(config.groups[1].rule.as_ref().unwrap().name(), "sgd");
    assert!(config.groups[2].frozen);
    assert_eq!(config.gradient.clip_value, Some(0.5));
    assert_eq!(config.schedule.warmup_steps, 7);
    assert_eq!(config.schedule.lr(200, 2e-3), 1e-5);
}

#[test]
fn mistakes_in_a_configuration_file_are_named() {
    const SGD: &str = "[optimizer]\nrule = \"sgd\"\n";
    let cases: [(&str, &[&str]); 26] = [
        ("", &["optimizer"]),
        ("[optimizer]\nlr = 1.0", &["optimizer.rule", "missing"]),
        ("[optimizer]\nrule = \"adamv\"", &["\"adamv\"", "adamw", "sgd"]),
        ("[optimizer]\nrule = 3", &["optimizer.rule", "a string"]),
        ("[optimizer]\nrule = \"sgd\"\nlearning_rate = 1.0", &["optimizer.learning_rate", "unknown key", "momentum"]),
        ("[optimizer]\nrule = \"sgd\"\nlr = \"fast\"", &["optimizer.lr", "a number", "\"fast\""]),
        ("[optimizer]\nrule = \"sgd\"\nlr = -1.0", &["optimizer.lr", "at least 0", "-1.0"]),
        ("[optimizer]\nrule = \"sgd\"\nlr = nan", &["optimizer.lr"]),
        ("[optimizer]\nrule = \"adam\"\nbetas = [0.9]", &["optimizer.betas", "two numbers"]),
        ("[optimizer]\nrule = \"adam\"\nbetas = [0.9, 1.0]", &["optimizer.betas", "below 1"]),
        ("[optimizer]\nrule = \"adam\"\neps = 0.0", &["optimizer.eps", "divides"]),
        ("[optimizer]\nrule = \"adam\"\namsgrad = 1", &["optimizer.amsgrad", "true or false"]),
        ("[optimiser]\nrule = \"sgd\"", &["optimiser"]),
        ("[[groups]]\nlr = 1.0", &["groups.match", "missing"]),
        ("[[groups]]\nmatch = \"b\"\nrule = \"no\"", &["\"no\""]),
        ("[[groups]]\nmatch = \"b\"\nfrozen = 1.0", &["groups.\"b\".frozen", "true or false"]),
        ("[[groups]]\nmatch = \"b\"\nbetas = 1.0", &["groups.\"b\".betas", "unknown key"]),
        ("[gradient]\nclip = 1.0", &["gradient.clip", "unknown key", "clip_global_norm"]),
        ("[gradient]\non_nonfinite = \"explode\"", &["gradient.on_nonfinite", "propagate"]),
        (
            "[gradient]\nclip_global_norm = 1.0\nnormalize_global_norm = 1.0",
            &["gradient.normalize_global_norm", "clip_global_norm"],
        ),
        ("[schedule]\ntotal_steps = 3", &["schedule.kind", "missing", "cosine"]),
        ("[schedule]\nkind = \"cosign\"", &["schedule.kind", "\"cosign\"", "cosine"]),
        ("[schedule]\nkind = \"cosine\"\ntotal_steps = 2.5", &["schedule.total_steps", "whole number"]),
        ("[schedule]\nkind = \"cosine\"", &["schedule.total_steps", "at least 1"]),
        ("[schedule]\nkind = \"cosine\"\ntotal_steps = 5\nwarmup_steps = 5", &["schedule.total_steps", "at least 6"]),
        ("[schedule]\nkind = \"constant\"\ngamma = 0.5", &["schedule.gamma", "unknown key"]),
    ];
    toml(SGD).unwrap();
    for (text, words) in cases {
        let optimizer = if text.starts_with("[opt") || text.is_empty() { "" } else { SGD };
        let error = toml(&format!("{optimizer}{text}")).expect_err(text);
        assert_says(&error, words);
    }
}

#[test]
fn rates_at_run_time_are_checked() {
    let gpu = gpu();
    let config = adamw().group(Group::matching("*.bias").set("lr", 1e-2));
    let specs = [TensorSpec::new("a.weight", [2]), TensorSpec::new("a.bias", [2])];
    let params = [vec![1.0, 2.0], vec![3.0, 4.0]];
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
    let mut cpu = Run::<f32>::new(&config, &specs, &params);
    let (gpu_run, cpu_run) = (&mut model.optimizer, &mut cpu.optimizer);
    for bad in [-1.0, f64::NAN, f64::INFINITY, 1e39] {
        for error in [gpu_run.set_lr(bad).unwrap_err(), cpu_run.set_lr(bad).unwrap_err()] {
            assert_option(&error, "optimizer", "lr");
        }
        for error in [gpu_run.set_group_lr("*.bias", bad), cpu_run.set_group_lr("*.bias", bad)] {
            assert_says(&error.unwrap_err().to_string(), &["*.bias", "lr"]);
        }
        let errors = [gpu_run.set_group_weight_decay("*.bias", bad), cpu_run.set_group_weight_decay("*.bias", bad)];
        for error in errors {
            assert_says(&error.unwrap_err().to_string(), &["*.bias", "weight_decay"]);
        }
    }
    for error in [gpu_run.set_group_lr("*.scale", 0.1), gpu_run.set_group_weight_decay("*.scale", 0.1)] {
        assert_says(&error.unwrap_err().to_string(), &["*.scale", "*.bias"]);
    }
    // From a base rate of 0 groups have no ratio to it.
    gpu_run.set_lr(0.0).unwrap();
    gpu_run.set_group_lr("*.bias", 0.5).unwrap();
    assert_option(&gpu_run.set_lr(0.1).unwrap_err(), "optimizer", "lr");
    assert_eq!(gpu_run.rates().groups()[1].lr, 0.5);
}

#[test]
fn a_state_that_does_not_fit_is_refused_with_every_mismatch() {
    let gpu = gpu();
    let specs = |names: [&str; 3]| names.map(|name| TensorSpec::new(name, [4])).to_vec();
    let params = vec![vec![1.0; 4]; 3];
    let model = |config: &OptimizerConfig, names| Model::new(&gpu, config, &specs(names), &params, Place::Arena);
    let mut target = model(&adamw(), ["a", "b", "c"]);
    target.step(&params);
    let before = target.bits();

    let mut state = target.optimizer.state_blocking().unwrap();
    state.tensors[0].shape = vec![2, 2];
    state.tensors[0].slots[1].0 = "sum".to_owned();
    state.tensors[1].rule = "sgd".to_owned();
    state.tensors[1].steps = 7;
    state.tensors[1].slots[0].1.pop();
    state.tensors[2].name = "d".to_owned();
    let error = target.optimizer.load_state(&state).unwrap_err();
    let words = [
        "\"a\" has shape [2, 2], expected [4]",
        "\"a\" lacks slot \"exp_avg_sq\"",
        "\"a\" has an unknown slot \"sum\"",
        "\"b\" was saved by rule \"sgd\", expected \"adamw\"",
        "\"b\" took 7 steps of 1",
        "\"b\" has 3 values in slot \"exp_avg\", expected 4",
        "\"c\" is missing",
        "\"d\" is not among",
    ];
    assert!(matches!(error, Error::State(_)), "{error}");
    assert_says(&error.to_string(), &words);
    assert_eq!(target.bits(), before, "a refused state changed something");

    // The same through a file.
    let file = model(&adamw(), ["a", "b", "d"]).optimizer.state_blocking().unwrap().to_safetensors().unwrap();
    let error = wgpu_optim::OptimizerState::from_safetensors(&file, target.optimizer.plan()).unwrap_err();
    assert_says(&error.to_string(), &["\"c\" is missing", "\"d.exp_avg\"", "\"d.exp_avg_sq\""]);
}
