//! Numbers that are not stored in f32, through the program.

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::fixtures::{Folder, json, named, program, serialize};

#[test]
fn narrow_storage_recognises_most_digits_too() {
    for (backend, storage, state) in [("gpu", "bf16", "q8"), ("gpu", "f16", "bf16"), ("cpu", "bf16", "q8")] {
        let arguments =
            ["train", "--json", "--backend", backend, "--epochs", "5", "--storage", storage, "--state", state];
        let summary = json(&arguments);
        assert!(summary["held_back_accuracy"].as_f64().unwrap() > 0.92, "{arguments:?}: {summary}");
        assert_eq!(summary["steps_skipped"], 0);
    }
}

#[test]
fn replay_keeps_the_storage_and_goes_on_to_the_same_bits() {
    let folder = Folder::new();
    let config = folder.write(
        "run.toml",
        "[optimizer]\nrule = \"adamw\"\nlr = 1e-2\n[storage]\nparams = \"bf16\"\ngradients = \"f16\"\nstate = \"bf16\"\n",
    );
    let values = |shift: usize| (0..301).map(|i| ((i * 37 + shift) % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
    let params = folder.write("p", serialize(&[named("w", &[7, 43], &values(0))]));
    let grads: Vec<_> =
        (1..5).map(|g| folder.write(&format!("g{g}"), serialize(&[named("w", &[7, 43], &values(g))]))).collect();
    for backend in ["gpu", "cpu"] {
        let run = |params: &str, grads: &[String], out: &str, more: &[&str]| {
            let base =
                ["replay", "--backend", backend, "--config", &config, "--params", params, "--out", out, "--grads"];
            let grads: Vec<_> = grads.iter().map(String::as_str).collect();
            let outcome = program(&[base.as_slice(), &grads, more].concat(), &[]);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        };
        let [whole, half, resumed, state] = ["whole", "half", "resumed", "state"].map(|name| folder.arg(name));
        run(&params, &grads, &whole, &[]);
        run(&params, &grads[..2], &half, &["--state-out", &state]);
        run(&half, &grads[2..], &resumed, &["--state-in", &state]);
        let [whole, resumed, state] = [whole, resumed, state].map(|path| std::fs::read(path).unwrap());
        let tensor = SafeTensors::deserialize(&whole).unwrap();
        assert_eq!(tensor.tensor("w").unwrap().dtype(), Dtype::BF16);
        let again = SafeTensors::deserialize(&resumed).unwrap();
        assert_eq!(tensor.tensor("w").unwrap().data(), again.tensor("w").unwrap().data(), "{backend}");
        let state = SafeTensors::deserialize(&state).unwrap();
        assert_eq!(state.tensor("w.exp_avg").unwrap().dtype(), Dtype::BF16);
        assert_eq!(state.tensor("w.master").unwrap().dtype(), Dtype::F32);
    }
}

#[test]
fn a_storage_that_cannot_be_is_bad_usage() {
    let folder = Folder::new();
    let config = folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\n[storage]\nrounding = \"stochastic\"\n");
    let outcome = program(&["train", "--config", &config], &[]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("storage.rounding") && outcome.stderr.contains("bf16"), "{}", outcome.stderr);
    let outcome = program(&["train", "--storage", "f64"], &[]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("\"f32\", \"f16\" or \"bf16\""), "{}", outcome.stderr);
}
