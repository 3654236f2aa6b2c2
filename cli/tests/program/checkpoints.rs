//! `train` with checkpoints: resumed to the same bits, and killed at any moment without a loss.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::AdamW;
use wgpu_optim::{Checkpoint, OptimizerConfig, TensorSpec};

use crate::fixtures::{Folder, json, named, program, serialize, without_config};

/// The plan of `train` without a configuration.
fn plan() -> Plan {
    let shapes: [&[u64]; 6] = [&[64, 64], &[64], &[32, 64], &[32], &[10, 32], &[10]];
    let names = (1..=3).flat_map(|l| [format!("layer{l}.weight"), format!("layer{l}.bias")]);
    let specs: Vec<_> = names.zip(shapes).map(|(name, shape)| TensorSpec::new(name, shape)).collect();
    Plan::new(&OptimizerConfig::new(AdamW::default()), &specs).unwrap()
}

/// The scores of a run, which hold every loss to the bit.
fn scores(summary: &Value) -> Vec<String> {
    summary["epochs"].as_array().unwrap().iter().map(Value::to_string).collect()
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    for backend in ["gpu", "cpu"] {
        let folder = Folder::new();
        let (checkpoint, config) = (folder.arg("run.safetensors"), folder.arg("run.toml"));
        folder.write(
            "run.toml",
            "[optimizer]\nrule = \"adam\"\nlr = 0.002\n\n[schedule]\nkind = \"cosine\"\ntotal_steps = 225\nmin_lr = 0.0\n",
        );
        let train = |epochs: &str, more: &[&str]| {
            let base =
                ["train", "--json", "--config", &config, "--backend", backend, "--epochs", epochs, "--seed", "3"];
            json(&[base.as_slice(), more].concat())
        };
        let (straight, resumed) = (folder.arg("a.safetensors"), folder.arg("b.safetensors"));
        let whole = train("5", &["--params-out", &straight]);
        train("3", &["--checkpoint", &checkpoint, "--checkpoint-every", "2"]);
        let rest = train("5", &["--resume", &checkpoint, "--checkpoint", &checkpoint, "--params-out", &resumed]);
        assert_eq!(scores(&rest), scores(&whole), "{backend}");
        assert_eq!(rest["steps_taken"], 225);
        assert!(std::fs::read(&straight).unwrap() == std::fs::read(&resumed).unwrap(), "{backend}");

        // All done: nothing is trained, and the summary is the same.
        let copy = folder.arg("copy.safetensors");
        let again = train("5", &["--resume", &checkpoint, "--checkpoint", &copy]);
        assert_eq!(scores(&again), scores(&whole));
        assert_eq!(scores(&train("5", &["--resume", &copy])), scores(&whole));
        let outcome =
            program(&["train", "--config", &config, "--epochs", "4", "--seed", "3", "--resume", &checkpoint], &[]);
        assert_eq!(outcome.code, 2);
        assert!(outcome.stderr.contains("5 epochs already"), "{}", outcome.stderr);
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = Folder::new();
    let checkpoint = folder.arg("run.safetensors");
    json(&["train", "--json", "--epochs", "1", "--backend", "cpu", "--checkpoint", &checkpoint]);
    let refuses = |arguments: &[&str], culprits: &[&str]| {
        let outcome = program(&[&["train", "--backend", "cpu"], arguments].concat(), &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}: {}", outcome.stderr);
        for culprit in culprits {
            assert!(outcome.stderr.contains(culprit), "{culprit:?} is not named in {:?}", outcome.stderr);
        }
    };
    refuses(&["--resume", &checkpoint, "--seed", "1"], &["--seed 0", "--seed 1"]);
    refuses(&["--resume", &checkpoint, "--batch", "8"], &["--batch 32", "--batch 8"]);
    let other = folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\nmomentum = 0.9\n");
    refuses(
        &["--resume", &checkpoint, "--config", &other],
        &[
            "run.safetensors",
            "optimizer.rule: \"adamw\", now \"sgd\"",
            "optimizer.momentum: none, now 0.9",
            "schedule.total_steps: 45, now none",
            "--allow optimizer.rule,optimizer.lr,",
        ],
    );
    // Without it, as earlier versions wrote checkpoints, the state itself says what does not fit.
    let old = folder.write("old.safetensors", without_config(&std::fs::read(&checkpoint).unwrap()));
    refuses(
        &["--resume", &old, "--config", &other],
        &[
            "old.safetensors",
            "\"layer1.weight\" was saved by rule \"adamw\"",
            "\"layer3.bias.momentum_buffer\" is missing",
        ],
    );
    let outcome = program(&["train", "-q", "--backend", "cpu", "--epochs", "2", "--resume", &old], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("does not say its configuration"), "{}", outcome.stderr);
    refuses(&["--resume", &folder.arg("nowhere")], &["nowhere"]);
    refuses(&["--checkpoint", &folder.arg("nowhere/run")], &["nowhere/run"]);
    refuses(&["--checkpoint", &checkpoint, "--params-out", &checkpoint], &["two outputs"]);
    refuses(&["--checkpoint-every", "2"], &["--checkpoint"]);
    let params = folder.write("p.safetensors", serialize(&[named("layer1.bias", &[64], &[0.0; 64])]));
    refuses(&["--resume", &params], &["p.safetensors", "not an optimizer state"]);
    // A checkpoint of the library's, without what a training run adds.
    let mut bare = Checkpoint::load(&checkpoint, &plan()).unwrap();
    let extra = std::mem::take(&mut bare.extra);
    bare.save(folder.path("bare.safetensors")).unwrap();
    refuses(&["--resume", &folder.arg("bare.safetensors")], &["bare.safetensors", "not of a training run"]);
    bare.extra = extra;
    bare.extra.insert("epochs".to_owned(), "[[7]]".to_owned());
    bare.save(folder.path("bare.safetensors")).unwrap();
    refuses(&["--resume", &folder.arg("bare.safetensors")], &["bare.safetensors", "scores"]);
}

#[test]
fn a_schedule_of_the_runs_own_length_stays_as_it_was() {
    let folder = Folder::new();
    let (checkpoint, out) = (folder.arg("run.safetensors"), folder.arg("p.safetensors"));
    let train = |more: &[&str]| program(&[&["train", "-q", "--backend", "cpu"], more].concat(), &[]);
    assert_eq!(train(&["--epochs", "2", "--checkpoint", &checkpoint]).code, 0);
    // As long as it was meant to be, it is the same run.
    assert_eq!(train(&["--epochs", "2", "--resume", &checkpoint]).code, 0);
    let longer = ["--epochs", "3", "--resume", &checkpoint];
    let refused = train(&longer);
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{}", refused.stderr);
    for words in ["--epochs 2, now --epochs 3", "schedule.total_steps: 90, now 135", "--allow epochs"] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    // The rate is 0 by then: nothing moves.
    assert_eq!(train(&["--epochs", "2", "--resume", &checkpoint, "--params-out", &out]).code, 0);
    let before = std::fs::read(&out).unwrap();
    let allowed = train(&[&longer[..], &["--allow", "epochs", "--params-out", &out]].concat());
    assert_eq!(allowed.code, 0, "{}", allowed.stderr);
    assert!(allowed.stderr.contains("its schedule goes on as it was, and ends at step 90"), "{}", allowed.stderr);
    assert!(std::fs::read(&out).unwrap() == before);
    // The longer one, where that is asked for by name.
    let other = train(&[&longer[..], &["--allow", "schedule", "--params-out", &out]].concat());
    assert_eq!((other.code, other.stderr.as_str()), (0, ""));
    assert!(std::fs::read(&out).unwrap() != before);
    // Another batch makes other steps of an epoch.
    let batch = ["--epochs", "3", "--resume", &checkpoint, "--batch", "64"];
    assert!(train(&batch).stderr.contains("--batch 32, now --batch 64"));
    let outcome = train(&[&batch[..], &["--allow", "batch,epochs"]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);

    // With a configuration, more epochs are no difference.
    let config = folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\nlr = 0.1\n");
    let with = |epochs: &str, more: &[&str]| train(&[&["--config", &config, "--epochs", epochs], more].concat());
    assert_eq!(with("1", &["--checkpoint", &checkpoint]).code, 0);
    let more = with("2", &["--resume", &checkpoint]);
    assert_eq!((more.code, more.stderr.as_str()), (0, ""));
    assert_eq!(with("2", &["--resume", &checkpoint, "--storage", "bf16"]).code, 2);
}

/// Where it is allowed, a run goes on as one that is reconfigured: sums start empty, frozen tensors stay.
#[test]
fn another_configuration_goes_on_where_it_is_allowed() {
    let plain = "[optimizer]\nrule = \"adam\"\nlr = 0.01\n";
    let cases = [
        ("[gradient]\naccumulate = 3\n", "gradient.accumulate"),
        ("[[groups]]\nmatch = \"layer1.*\"\nfrozen = true\n", "groups"),
        ("[[groups]]\nmatch = \"layer1.*\"\nlr = 0.001\n", "groups"),
        ("[storage]\nparams = \"bf16\"\ngradients = \"bf16\"\nstate = \"q8\"\n", "storage"),
    ];
    for backend in ["gpu", "cpu"] {
        let folder = Folder::new();
        let checkpoint = folder.arg("run.safetensors");
        let one = folder.write("one.toml", plain);
        let train = |config: &str, epochs: &str, more: &[&str]| {
            let base = ["train", "-q", "--json", "--backend", backend, "--config", config, "--epochs", epochs];
            program(&[base.as_slice(), more].concat(), &[])
        };
        for (more, allow) in cases {
            let two = folder.write("two.toml", format!("{plain}{more}"));
            for (before, after) in [(&one, &two), (&two, &one)] {
                let first = train(before, "1", &["--checkpoint", &checkpoint]);
                assert_eq!(first.code, 0, "{}", first.stderr);
                let refused = train(after, "2", &["--resume", &checkpoint]);
                assert_eq!(refused.code, 2, "{backend} {more}");
                assert!(refused.stderr.contains("--allow"), "{}", refused.stderr);
                let allowed = train(after, "2", &["--resume", &checkpoint, "--allow", allow]);
                assert_eq!(allowed.code, 0, "{backend} {more}: {}", allowed.stderr);
                let steps = |config: &String| {
                    let accumulates = std::fs::read_to_string(config).unwrap().contains("accumulate");
                    if accumulates { 15 } else { 45 }
                };
                let summary: Value = serde_json::from_str(&allowed.stdout).unwrap();
                assert_eq!(summary["steps_taken"], steps(before) + steps(after), "{backend} {more}");
            }
        }
    }
}

/// Signals end a run with a checkpoint of all that it has trained, from which it goes on to the same bits.
#[cfg(unix)]
#[test]
fn a_signal_leaves_a_last_checkpoint() {
    for (backend, signal, code) in [("cpu", "-INT", 130), ("gpu", "-TERM", 143)] {
        let folder = Folder::new();
        let checkpoint = folder.arg("run.safetensors");
        let config = folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\nlr = 0.05\nmomentum = 0.9\n");
        let base = ["train", "--backend", backend, "--config", &config];
        // So rare that only the signal writes one.
        let rare = ["--epochs", "1000000", "--checkpoint", &checkpoint, "--checkpoint-every", "1000000"];
        let interrupted = |seconds| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"));
            let command = command.args([&base[..], &rare].concat()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_secs(seconds));
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
            let output = child.wait_with_output().unwrap();
            folder.path("run.safetensors").exists().then_some(output)
        };
        // Before it trains a signal ends it at once, and how long that is depends on the machine.
        let output = [2, 4, 8, 16, 32].into_iter().find_map(interrupted).expect("it never came to train");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]), "{backend}: {stderr}");
        assert!(stderr.contains("interrupted") && stderr.contains("run.safetensors"), "{backend}: {stderr}");
        assert_eq!(folder.names(), ["run.safetensors", "run.toml"]);

        let bytes = std::fs::read(&checkpoint).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let scores = header.metadata().as_ref().unwrap()["extra:epochs"].clone();
        let epochs = serde_json::from_str::<Value>(&scores).unwrap().as_array().unwrap().len();
        assert!(epochs > 0 && stderr.contains(&format!("after {epochs} epochs")), "{backend}: {stderr}");
        let epochs = (epochs + 1).to_string();
        let (resumed, straight) = (folder.arg("a"), folder.arg("b"));
        let finish = |more: &[&str]| {
            let outcome = program(&[&base[..], &["-q", "--epochs", &epochs], more].concat(), &[]);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        };
        finish(&["--resume", &checkpoint, "--params-out", &resumed]);
        finish(&["--params-out", &straight]);
        assert!(std::fs::read(&resumed).unwrap() == std::fs::read(&straight).unwrap(), "{backend}");
    }
}

/// What has nothing to finish ends where it is.
#[cfg(unix)]
#[test]
fn a_signal_ends_other_commands_at_once() {
    // One row of hours.
    let arguments = ["bench", "--backend", "cpu", "--elements", "1M", "--tensors", "1", "--runs", "100000"];
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"));
        let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let started = Instant::now();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

/// Runs are killed at random moments, each goes on from what the one before left, and the last one ends as one that
/// nobody has killed. `WGPU_OPTIM_KILLS` sets how many; `scripts/kill` runs 100.
#[test]
fn killed_runs_leave_a_whole_checkpoint() {
    let kills: u32 = std::env::var("WGPU_OPTIM_KILLS").map_or(5, |n| n.parse().unwrap());
    let backend = std::env::var("WGPU_OPTIM_KILLS_BACKEND").unwrap_or_else(|_| "gpu".to_owned());
    let epochs = (3 * kills).to_string();
    let folder = Folder::new();
    let checkpoint = folder.arg("run.safetensors");
    let base = ["train", "--quiet", "--backend", &backend, "--epochs", &epochs, "--checkpoint", &checkpoint];
    let plan = plan();
    let started = Instant::now();
    let first = folder.arg("first.safetensors");
    json(&["train", "--json", "--backend", &backend, "--epochs", "1", "--checkpoint", &first]);
    let one_epoch = started.elapsed();
    let (mut loaded, mut partial, mut epoch) = (0, 0, 0);
    for kill in 0..kills {
        let resume = folder.path("run.safetensors").exists();
        let more = ["--resume", checkpoint.as_str()];
        let arguments = [base.as_slice(), if resume { &more } else { &[] }].concat();
        let mut child = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Knuth's multiplicative hash: any moment up to thrice what one epoch takes from the start.
        let share = f64::from(kill.wrapping_mul(2_654_435_761)) / f64::from(u32::MAX);
        let moment = one_epoch.mul_f64(0.2 + 2.8 * share);
        let started = Instant::now();
        while started.elapsed() < moment {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "kill {kill}: ended by itself with {status}");
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // SIGKILL, or it has ended.
        let _ = child.kill();
        child.wait().unwrap();
        partial += u32::from(folder.names().iter().any(|name| name.ends_with(".partial")));
        if folder.path("run.safetensors").exists() {
            let found =
                Checkpoint::load(folder.path("run.safetensors"), &plan).unwrap_or_else(|e| panic!("kill {kill}: {e}"));
            let now = serde_json::from_str::<Value>(&found.extra["epochs"]).unwrap().as_array().unwrap().len();
            assert!(now >= epoch, "kill {kill}: fell back from epoch {epoch} to {now}");
            epoch = now;
            loaded += 1;
        }
        folder
            .names()
            .iter()
            .filter(|n| n.ends_with(".partial"))
            .for_each(|n| std::fs::remove_file(folder.path(n)).unwrap());
    }
    assert!(loaded > 0, "no run came as far as its first checkpoint");
    println!(
        "reliability: training runs killed ({backend}): {kills}; {loaded} left a checkpoint and all of these load, {partial} \
         were killed while one was written"
    );

    let (last, straight) = (folder.arg("last.safetensors"), folder.arg("straight.safetensors"));
    let finish = |more: &[&str]| {
        let outcome = program(&[base[..6].to_vec(), more.to_vec()].concat(), &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    };
    finish(&["--resume", &checkpoint, "--params-out", &last]);
    finish(&["--params-out", &straight]);
    assert!(std::fs::read(&last).unwrap() == std::fs::read(&straight).unwrap(), "the killed runs ended elsewhere");
}
