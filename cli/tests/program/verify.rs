use crate::fixtures::{json, program};

#[test]
fn a_selftest_passes_and_names_the_device() {
    let outcome = program(&["verify", "--selftest", "--rule", "adamw", "--rule", "lamb"], &[]);
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stderr, outcome.stdout);
    let device = &json(&["devices", "--json"])[0];
    let first = outcome.stdout.lines().next().unwrap();
    for part in ["name", "driver", "driver_info"] {
        assert!(first.contains(device[part].as_str().unwrap()), "{first}");
    }
    let table: Vec<_> = outcome.stdout.lines().skip(2).collect();
    for start in ["adamw ", "lamb "] {
        assert!(table.iter().any(|line| line.starts_with(start) && line.contains("ok") && line.contains("default")));
    }
    assert!(outcome.stdout.ends_with(" 0 missed\n"), "{}", outcome.stdout);
}

#[test]
fn every_option_of_a_rule_is_checked() {
    let checks = json(&["verify", "--rule", "sgd", "--steps", "3", "--json"]);
    let checks = checks.as_array().unwrap();
    assert!(checks.iter().all(|c| c["rule"] == "sgd" && c["passed"] == true && c["miss"].is_null()));
    let options: Vec<_> = checks.iter().map(|c| c["options"].as_str().unwrap()).collect();
    for option in ["momentum=", "dampening=", "nesterov=true", "weight_decay=", "maximize=true", "cautious=true"] {
        assert!(options.iter().any(|o| o.contains(option)), "{option} is not checked");
    }
    for option in ["gradient.accumulate=", "gradient.clip_global_norm=", "weights.max_norm=", "ema={decay="] {
        assert!(options.iter().any(|o| o.contains(option)), "{option} is not checked");
    }
    for kind in ["oracle", "special values", "skip", "determinism", "guards"] {
        assert!(checks.iter().any(|c| c["check"] == kind), "{kind}");
    }
    for storage in
        ["storage bf16", "storage q8", "momentum=0.1 storage bf16-master", "storage f16-master maximize=true"]
    {
        assert!(options.iter().any(|o| o.contains(storage)), "{storage} is not checked");
    }
    let momentum = checks.iter().find(|c| c["options"].as_str().unwrap().starts_with("momentum=")).unwrap();
    assert_eq!(momentum["worst_slot"]["what"], "momentum_buffer");
    assert!(momentum["worst_parameters"]["error"].as_f64().unwrap() > 0.0);
}

/// Lion takes a sign: where its average is zero but for rounding, f32 and f64 may disagree, and in 16 bits that is
/// often.
#[test]
fn signs_that_only_rounding_decides_are_no_misses() {
    let outcome = program(&["verify", "--rule", "lion"], &[]);
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stderr, outcome.stdout);
}

#[test]
fn without_an_adapter_there_is_nothing_to_verify() {
    let outcome = program(&["verify", "--selftest"], &[("WGPU_ADAPTER_NAME", "no such adapter")]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert!(outcome.stderr.contains("no usable GPU adapter"), "{}", outcome.stderr);
}
