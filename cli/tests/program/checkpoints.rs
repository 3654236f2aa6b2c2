//! `train` with checkpoints: resumed to the same bits, and killed at any moment without a loss.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wgpu_optim::rules::AdamW;
use wgpu_optim::step::Plan;
use wgpu_optim::{Checkpoint, OptimizerConfig, TensorSpec};

use crate::fixtures::{Folder, json, named, program, serialize};

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
        let again = train("5", &["--resume", &checkpoint]);
        assert_eq!(scores(&again), scores(&whole));
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
            "\"layer1.weight\" was saved by rule \"adamw\"",
            "\"layer3.bias.momentum_buffer\" is missing",
        ],
    );
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
