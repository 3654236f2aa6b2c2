use crate::fixtures::{json, program};

#[test]
fn devices_lists_the_adapter_that_opens_first() {
    let devices = json(&["devices", "--json"]);
    let devices = devices.as_array().unwrap();
    assert!(!devices.is_empty(), "these tests need a GPU adapter");
    assert!(devices.iter().enumerate().all(|(i, d)| d["opened"] == (i == 0)));
    assert!(devices[0]["limits"]["max_storage_buffer_binding_size"].as_u64().unwrap() >= 128 << 20);
    assert!(devices[0]["features"]["timestamp_query"].is_boolean());

    let text = program(&["devices"], &[]);
    assert_eq!(text.code, 0);
    assert!(text.stdout.contains(devices[0]["name"].as_str().unwrap()), "{}", text.stdout);
    assert!(!text.stdout.contains('\x1b'), "colours where there is no terminal: {}", text.stdout);
}

#[test]
fn devices_without_an_adapter_says_what_to_do() {
    let outcome = program(&["devices"], &[("WGPU_ADAPTER_NAME", "no such adapter")]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert!(outcome.stderr.contains("WGPU_ADAPTER_NAME"), "{}", outcome.stderr);
}

#[test]
fn rules_lists_every_rule_of_the_library() {
    let listed = json(&["rules", "--json"]);
    let listed = listed.as_array().unwrap();
    let names: Vec<_> = listed.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, wgpu_optim::rules::all().iter().map(|r| r.name()).collect::<Vec<_>>());

    let adamw = listed.iter().find(|r| r["name"] == "adamw").unwrap();
    assert_eq!(adamw["options"]["betas"], serde_json::json!([0.9, 0.999]));
    assert_eq!(adamw["slots"][0]["name"], "exp_avg");
    assert_eq!(adamw["decay"], "decoupled");
    assert_eq!((&adamw["bytes_per_parameter"], &adamw["bytes_per_parameter_without_scan"]), (&32.into(), &28.into()));

    let text = program(&["rules"], &[]).stdout;
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn help_of_every_command_has_examples() {
    for command in ["devices", "train", "replay", "rules", "schedule", "verify", "race", "bench", "completions"] {
        let outcome = program(&[command, "--help"], &[]);
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout.contains(&format!("wgpu-optim {command}")), "{}", outcome.stdout);
        assert!(outcome.stdout.contains("Examples:"), "{}", outcome.stdout);
    }
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = program(&["completions", shell], &[]).stdout;
        assert!(["devices", "train", "replay", "params-out"].iter().all(|word| script.contains(word)), "{shell}");
    }
}

#[test]
fn kernel_prints_a_composed_kernel_that_parses() {
    for (rule, entry) in [("adamw", "update"), ("lamb", "measure"), ("adafactor", "sum_lines"), ("sgd", "prepare")] {
        for storage in ["f32", "q8"] {
            let printed = program(&["kernel", rule, "--entry", entry, "--storage", storage], &[]);
            assert_eq!(printed.code, 0, "{}", printed.stderr);
            assert!(printed.stdout.contains(&format!("fn {entry}(")), "{rule} {storage}");
            let module = wgpu_optim::wgpu::naga::front::wgsl::parse_str(&printed.stdout);
            assert!(module.is_ok(), "{rule} {entry} {storage}: {module:?}");
        }
    }
    let listed = program(&["kernel", "adamw", "--entry", "list"], &[]).stdout;
    let entries: Vec<_> = listed.lines().collect();
    assert_eq!(
        entries,
        ["scan", "sum_groups", "prepare", "update", "weigh", "sum_tensors", "limit", "average_weights"]
    );
}

#[test]
fn kernel_says_which_there_are() {
    let refused = program(&["kernel", "adamw", "--entry", "measure"], &[]);
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
    assert!(refused.stderr.contains("\"measure\"") && refused.stderr.contains("update"), "{}", refused.stderr);
    let refused = program(&["kernel", "adamv"], &[]);
    assert!(refused.code == 2 && refused.stderr.contains("adamw"), "{}", refused.stderr);
}
