use crate::fixtures::{Folder, json, program, read};

#[test]
fn a_few_epochs_recognise_most_digits() {
    for backend in ["gpu", "cpu"] {
        let folder = Folder::new();
        let (plot, params) = (folder.arg("loss.svg"), folder.arg("p.safetensors"));
        let arguments = ["train", "--json", "--backend", backend, "--epochs", "5", "--seed", "1"];
        let summary = json(&[arguments.as_slice(), &["--plot", &plot, "--params-out", &params]].concat());
        // 45 mini-batches, the last of 29 images.
        assert_eq!((&summary["steps_taken"], &summary["steps_skipped"]), (&225.into(), &0.into()));
        assert_eq!(summary["backend"], backend);
        assert_eq!(summary["held_back_images"], 360);
        assert!(summary["held_back_accuracy"].as_f64().unwrap() > 0.93, "{summary}");
        let losses: Vec<_> =
            summary["epochs"].as_array().unwrap().iter().map(|e| e["loss"].as_f64().unwrap()).collect();
        assert_eq!(losses.len(), 5);
        assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");

        let shapes: Vec<_> = read(params.as_ref()).into_iter().map(|(name, shape, _)| (name, shape)).collect();
        assert_eq!(shapes[0], ("layer1.bias".to_owned(), vec![64]));
        assert_eq!(shapes[1], ("layer1.weight".to_owned(), vec![64, 64]));
        assert_eq!(shapes.len(), 6);
        let svg = std::fs::read_to_string(&plot).unwrap();
        for text in ["Loss", "nats", "Accuracy", "%", "epoch", "training", "held back"] {
            assert!(svg.contains(text), "the plot lacks {text:?}");
        }
        for text in ["Gradient norm", "Update to weights", "layer1.weight", "layer3.bias"] {
            assert!(svg.contains(text), "the plot lacks {text:?}");
        }
    }
}

#[test]
fn a_report_is_one_file_that_says_everything() {
    let folder = Folder::new();
    let config =
        "# <script>alert(1)</script>\n[optimizer]\nrule = \"sgd\"\nlr = 0.1\n[gradient]\nclip_global_norm = 0.5\n";
    let config = folder.write("run.toml", config);
    let path = folder.arg("run.html");
    let arguments = ["train", "--config", &config, "--epochs", "3", "--report", &path, "--backend", "gpu", "--quiet"];
    let outcome = program(&arguments, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = std::fs::read_to_string(&path).unwrap();
    let charts = [
        "Loss",
        "Accuracy",
        "Learning rate: as it was applied",
        "Clip coefficient",
        "Global norm before the clip",
        "Gradient norm",
        "Update to weights",
    ];
    for chart in charts {
        assert!(html.contains(&format!("aria-label=\"{chart}\"")), "the report lacks {chart:?}");
    }
    assert_eq!(html.matches("<svg ").count(), charts.len());
    assert_eq!(html.matches("</svg>").count(), charts.len());
    for text in ["held-back accuracy", "layer2.weight", "verdict", "healthy", "clip_global_norm = 0.5"] {
        assert!(html.contains(text), "the report lacks {text:?}");
    }
    // Nothing is fetched and nothing runs, whatever the configuration says.
    let foreign = html.replace("http://www.w3.org/2000/svg", "");
    for text in ["<script", "http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!foreign.contains(text), "the report has {text:?}");
    }
    assert!(html.contains("&lt;script&gt;"));
}

#[test]
fn a_seed_decides_every_bit() {
    let folder = Folder::new();
    let train = |name: &str, seed: &str| {
        let out = folder.arg(name);
        let arguments = ["train", "--quiet", "--epochs", "2", "--seed", seed, "--params-out", &out];
        let outcome = program(&arguments, &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stdout.starts_with("held-back accuracy "), "{}", outcome.stdout);
        assert_eq!(outcome.stdout.lines().count(), 1);
        std::fs::read(out).unwrap()
    };
    let first = train("a.safetensors", "7");
    assert!(first == train("b.safetensors", "7"));
    assert!(first != train("c.safetensors", "8"));
}

#[test]
fn divergence_is_told_and_writes_nothing() {
    for backend in ["gpu", "cpu"] {
        let folder = Folder::new();
        let config = folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\nlr = 1e30\n");
        let plot = folder.write("loss.svg", "old");
        let arguments = ["train", "--config", &config, "--epochs", "2", "--backend", backend, "--plot", &plot];
        let outcome = program(&arguments, &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("training diverged"), "{}", outcome.stderr);
        assert_eq!(std::fs::read(&plot).unwrap(), b"old");
    }
}

#[test]
fn a_configuration_names_the_networks_tensors() {
    let folder = Folder::new();
    let group =
        |pattern| format!("[optimizer]\nrule = \"adam\"\nlr = 0.01\n\n[[groups]]\nmatch = \"{pattern}\"\nlr = 0.02\n");
    let train = |config: &str| program(&["train", "--config", config, "--epochs", "1", "--backend", "cpu"], &[]);
    assert_eq!(train(&folder.write("good.toml", group("layer*.bias"))).code, 0);
    let outcome = train(&folder.write("bad.toml", group("conv*")));
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("bad.toml") && outcome.stderr.contains("conv*"), "{}", outcome.stderr);
}

#[test]
fn a_plateau_is_told_the_training_loss() {
    for backend in ["gpu", "cpu"] {
        let folder = Folder::new();
        // Losses that fall never rise: the second epoch stops it all.
        let plateau = "[schedule]\nkind = \"plateau\"\nmode = \"max\"\npatience = 0\nfactor = 1e-12\n";
        let config = folder.write("run.toml", format!("[optimizer]\nrule = \"sgd\"\nlr = 0.1\n{plateau}"));
        let summary = json(&["train", "--json", "--config", &config, "--epochs", "5", "--backend", backend]);
        let losses: Vec<_> =
            summary["epochs"].as_array().unwrap().iter().map(|e| e["loss"].as_f64().unwrap()).collect();
        assert_eq!(losses.len(), 5);
        assert!(losses[1] < 0.9 * losses[0] && losses[2] < 0.99 * losses[1], "{losses:?}");
        assert!(losses[3..].iter().all(|loss| (loss - losses[4]).abs() < 1e-4 * loss), "{backend}: {losses:?}");
    }
}

#[test]
fn mini_batches_that_make_no_whole_step_are_refused_or_told() {
    let folder = Folder::new();
    for backend in ["gpu", "cpu"] {
        let out = folder.arg("p.safetensors");
        let train = |accumulate: u32, more: &[&str]| {
            let text = format!("[optimizer]\nrule = \"sgd\"\n[gradient]\naccumulate = {accumulate}\n");
            let config = folder.write("run.toml", text);
            let base = ["train", "-q", "--json", "--backend", backend, "--config", &config];
            program(&[base.as_slice(), more].concat(), &[])
        };
        // 45 an epoch.
        let refused = train(1000, &["--epochs", "3", "--params-out", &out]);
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{}", refused.stderr);
        for words in ["gradient.accumulate", "1000", "135"] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
        assert!(!folder.path("p.safetensors").exists());
        let told = train(7, &["--epochs", "2"]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(told.stderr.contains("gradient.accumulate = 7: the last 6 mini-batches"), "{}", told.stderr);
        let summary: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!((&summary["steps_taken"], &summary["micro_batches_left"]), (&12.into(), &6.into()));
        assert_eq!(summary["batch"], 32);
        assert!(summary["config"].as_str().unwrap().contains("accumulate = 7\n"), "{summary}");
        let whole = train(9, &["--epochs", "2"]);
        assert_eq!((whole.code, whole.stderr.as_str()), (0, ""));
    }
}

#[test]
fn a_run_in_which_nothing_moves_is_refused() {
    let folder = Folder::new();
    let config = folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\n[[groups]]\nmatch = \"*\"\nfrozen = true\n");
    let outcome = program(&["train", "--config", &config, "--epochs", "1", "--backend", "cpu"], &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
    assert!(outcome.stderr.contains("frozen"), "{}", outcome.stderr);
}

/// Whatever decided the run stands in its report: every option of the help, and every key of the configuration.
#[test]
fn a_report_leaves_no_option_out() {
    let folder = Folder::new();
    let config = folder.write("run.toml", "[optimizer]\nrule = \"adam\" # mine\n");
    let path = folder.arg("run.html");
    let mut arguments =
        vec!["train", "--config", &config, "--epochs", "1", "--report", &path, "--backend", "cpu", "-q"];
    arguments.extend(["--storage", "bf16", "--state", "q8", "--seed", "11", "--batch", "48"]);
    let outcome = program(&arguments, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = std::fs::read_to_string(&path).unwrap();
    let help = program(&["train", "--help"], &[]).stdout;
    let options: Vec<_> = help.split_whitespace().filter(|w| w.starts_with("--") && w.len() > 2).collect();
    let options: std::collections::BTreeSet<_> =
        options.iter().map(|w| w.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-')).collect();
    assert!(options.len() > 15, "{options:?}");
    for option in options.iter().filter(|option| **option != "--help") {
        assert!(html.contains(&format!("<td>{option}</td>")), "the report lacks {option}");
    }
    for (option, value) in
        [("storage", "bf16"), ("state", "q8"), ("seed", "11"), ("batch", "48"), ("checkpoint", "-"), ("quiet", "true")]
    {
        assert!(html.contains(&format!("<td>--{option}</td><td>{value}</td>")), "--{option} is not {value}");
    }
    for text in ["params = &quot;bf16&quot;", "state = &quot;q8&quot;", "amsgrad = false", "# mine"] {
        assert!(html.contains(text), "the report lacks {text:?}");
    }
}

#[test]
fn a_loss_that_nobody_scales_has_no_loss_scale() {
    let folder = Folder::new();
    for scale in ["1024.0", "{ init = 1024.0 }"] {
        let config =
            folder.write("run.toml", format!("[optimizer]\nrule = \"sgd\"\n[gradient]\nloss_scale = {scale}\n"));
        let outcome = program(&["train", "--config", &config, "--epochs", "1"], &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
        assert!(outcome.stderr.contains("run.toml: gradient.loss_scale"), "{}", outcome.stderr);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_files_whole() {
    use std::process::{Command, Stdio};
    let folder = Folder::new();
    let params = folder.write("p.safetensors", "old");
    let arguments = ["train", "--backend", "cpu", "--epochs", "1000000", "--params-out", &params];
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"));
    let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Long enough to be training, however slow the machine: its handler is set before all else.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(130), &b""[..]));
    assert_eq!(std::fs::read(&params).unwrap(), b"old");
    assert_eq!(folder.names(), ["p.safetensors"]);
}
