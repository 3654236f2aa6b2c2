//! Replays of what the references were given must end where they ended.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::fixtures::{Folder, Named, f32s, json, named, program, read, serialize};

/// One or two cases of each rule, and each kind of group, clipping, accumulation and schedule.
const CASES: [&str; 16] = [
    "sgd_clip_global_norm_huge",
    "sgd_groups_frozen_clip",
    "sgd_normalize_global_norm_tiny",
    "momentum_all",
    "adagrad_all",
    "adadelta_all",
    "rmsprop_all",
    "adam_clip_value",
    "adamw_amsgrad",
    "adamw_groups",
    "adamw_groups_rule",
    "adamw_warmup_cosine",
    "sgd_accumulate",
    "adamw_accumulate",
    "adam_loss_scale",
    "adamw_loss_scale_clip_accumulate",
];

/// What f32 may be off, unless the reference's own f32 run is off more.
const LIMIT: f64 = 1e-5;
/// The same rounding, drawn twice.
const SAME_NOISE: f64 = 1.01;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn case(name: &str) -> Value {
    let text = std::fs::read_to_string(golden().join("cases.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone()
}

/// The tensors of the shared inputs under a prefix, times a factor.
fn inputs(prefix: &str, scale: f32) -> Vec<Named> {
    let bytes = std::fs::read(golden().join("inputs.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().filter_map(|(key, view)| {
        let values: Vec<_> = f32s(view.data()).into_iter().map(|x| x * scale).collect();
        Some(named(key.strip_prefix(prefix)?, view.shape(), &values))
    });
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// The files of a case's run, and the arguments that name them.
struct Run {
    folder: Folder,
    config: String,
    params: String,
    gradients: Vec<String>,
}

impl Run {
    fn of(case: &Value) -> Self {
        let folder = Folder::new();
        let scale = case["gradient_scale"].as_f64().unwrap() as f32;
        let write = |step: u64| {
            let gradients = inputs(&format!("grads/{step:02}/"), scale);
            folder.write(&format!("g{step}.safetensors"), serialize(&gradients))
        };
        Self {
            config: folder.write("run.toml", toml::to_string(&case["config"]).unwrap()),
            params: folder.write("p.safetensors", serialize(&inputs("params/", 1.0))),
            gradients: (0..case["steps"].as_u64().unwrap()).map(write).collect(),
            folder,
        }
    }

    /// Replays those gradients from the parameters given, and gives the summary.
    fn replay(&self, backend: &str, params: &str, gradients: &[String], more: &[&str]) -> Value {
        let mut arguments = vec!["replay", "--json", "--config", &self.config, "--backend", backend];
        arguments.extend(["--params", params, "--grads"]);
        arguments.extend(gradients.iter().map(String::as_str));
        arguments.extend(more);
        json(&arguments)
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖out − reference‖ / ‖reference − start‖; zero where nothing differs.
fn error(out: &[f32], reference: &[f64], start: &[f32]) -> f64 {
    assert_eq!(out.len(), reference.len());
    let off = norm(out.iter().zip(reference).map(|(a, b)| f64::from(*a) - b));
    if off == 0.0 { 0.0 } else { off / norm(reference.iter().zip(start).map(|(a, b)| a - f64::from(*b))) }
}

/// NaN is a miss too.
fn is_miss(error: f64, allowed: f64) -> bool {
    error.is_nan() || error > allowed
}

#[test]
fn a_perturbed_result_is_a_miss() {
    let (start, reference) = ([1.0f32, -2.0, 3.0], [1.5f64, -2.5, 3.25]);
    let exact = reference.map(|x| x as f32);
    assert!(!is_miss(error(&exact, &reference, &start), LIMIT));
    for wrong in [reference[2] as f32 * 1.0001, f32::NAN, f32::INFINITY, start[2]] {
        assert!(is_miss(error(&[exact[0], exact[1], wrong], &reference, &start), LIMIT), "{wrong}");
    }
}

fn replays_reach_the_references(backend: &str) {
    let mut misses = Vec::new();
    for name in CASES {
        let case = case(name);
        let run = Run::of(&case);
        let (out, state) = (run.folder.arg("o.safetensors"), run.folder.arg("s.safetensors"));
        let summary = run.replay(backend, &run.params, &run.gradients, &["--out", &out, "--state-out", &state]);
        let accumulate = case["config"]["gradient"]["accumulate"].as_u64().unwrap_or(1);
        let steps = case["steps"].as_u64().unwrap() / accumulate;
        assert_eq!((&summary["steps_taken"], &summary["steps_skipped"]), (&steps.into(), &0.into()), "{name}");
        assert_eq!(summary["backend"], backend);

        let bytes = std::fs::read(golden().join(format!("cases/{name}.safetensors"))).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let expected = |key: &str| -> Vec<f64> {
            let data = reference.tensor(key).unwrap().data().to_vec();
            data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let allowed = |peer: &Value| (SAME_NOISE * peer.as_f64().unwrap_or(0.0)).max(LIMIT);
        let start = inputs("params/", 1.0);
        for ((tensor, shape, values), (_, old_shape, start)) in
            read(&run.folder.path("o.safetensors")).iter().zip(&start)
        {
            assert_eq!(shape, old_shape);
            let error = error(values, &expected(&format!("final/{tensor}")), start);
            let allowed = allowed(&case["peer_f32_error"][tensor]);
            if is_miss(error, allowed) {
                misses.push(format!("{name} {tensor}: {error:e} over {allowed:e}"));
            }
        }
        let state: BTreeMap<_, _> =
            read(&run.folder.path("s.safetensors")).into_iter().map(|(key, _, values)| (key, values)).collect();
        for (slot, tensors) in case["slots"].as_object().unwrap() {
            for tensor in tensors.as_array().unwrap() {
                let key = format!("{}.{slot}", tensor.as_str().unwrap());
                let error = error(&state[&key], &expected(&format!("slot/{key}")), &vec![0.0; state[&key].len()]);
                let allowed = allowed(&case["peer_f32_slot_error"][&key]);
                if is_miss(error, allowed) {
                    misses.push(format!("{name} {key}: {error:e} over {allowed:e}"));
                }
            }
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

#[test]
fn replays_on_the_gpu_reach_the_references() {
    replays_reach_the_references("gpu");
}

#[test]
fn replays_on_the_cpu_reach_the_references() {
    replays_reach_the_references("cpu");
}

#[test]
fn a_run_in_two_parts_ends_with_the_same_bits() {
    let run = Run::of(&case("adamw_groups_rule"));
    for backend in ["gpu", "cpu"] {
        let path = |name: &str| run.folder.arg(&format!("{backend}-{name}.safetensors"));
        let outputs = |n: &str| [path(&format!("o{n}")), path(&format!("s{n}"))];
        let [[o, s], [o1, s1], [o2, s2]] = [outputs(""), outputs("1"), outputs("2")];
        run.replay(backend, &run.params, &run.gradients, &["--out", &o, "--state-out", &s]);
        run.replay(backend, &run.params, &run.gradients[..10], &["--out", &o1, "--state-out", &s1]);
        let second = ["--out", &o2, "--state-out", &s2, "--state-in", &s1];
        let summary = run.replay(backend, &o1, &run.gradients[10..], &second);
        assert_eq!(summary["steps_taken"], 20);

        let bytes = |path: &str| std::fs::read(path).unwrap();
        assert!(bytes(&o) == bytes(&o2), "{backend}: parameters differ");
        // The order of a file's metadata is free.
        assert!(read(s.as_ref()) == read(s2.as_ref()), "{backend}: state differs");
        assert!(bytes(&o) != bytes(&o1), "{backend}: ten steps changed nothing");
    }
}

#[test]
fn a_gradient_that_is_not_finite_skips_its_step() {
    let folder = Folder::new();
    let config =
        folder.write("run.toml", "[optimizer]\nrule = \"sgd\"\nlr = 0.5\n\n[gradient]\nclip_global_norm = 10\n");
    let params = folder.write("p.safetensors", serialize(&[named("w", &[2], &[1.0, 2.0]), named("empty", &[0], &[])]));
    let gradient =
        |name: &str, values| folder.write(name, serialize(&[named("w", &[2], values), named("empty", &[0], &[])]));
    let (good, bad) = (gradient("g.safetensors", &[3.0, 4.0]), gradient("nan.safetensors", &[1.0, f32::NAN]));
    for backend in ["gpu", "cpu"] {
        let out = folder.arg("o.safetensors");
        let arguments = ["replay", "--config", &config, "--params", &params, "--grads", &bad, &good, "--out", &out];
        let outcome = program(&[arguments.as_slice(), &["--backend", backend]].concat(), &[]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        assert!(outcome.stdout.starts_with("1 steps taken, 1 skipped, last global norm 5.0"), "{}", outcome.stdout);
        assert_eq!(read(out.as_ref()), [named("empty", &[0], &[]), named("w", &[2], &[-0.5, 0.0])]);
    }
}

#[test]
fn frozen_tensors_need_no_gradient() {
    let folder = Folder::new();
    let config = folder.write(
        "run.toml",
        "[optimizer]\nrule = \"sgd\"\nlr = 1.0\n\n[[groups]]\nmatch = \"embedding.*\"\nfrozen = true\n",
    );
    let frozen = named("embedding.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let params = folder.write("p.safetensors", serialize(&[frozen.clone(), named("w", &[1], &[1.0])]));
    let without = folder.write("g0.safetensors", serialize(&[named("w", &[1], &[0.25])]));
    // Ignored, whatever its shape and values.
    let with = [named("embedding.weight", &[1], &[f32::NAN]), named("w", &[1], &[0.25])];
    let with = folder.write("g1.safetensors", serialize(&with));
    for backend in ["gpu", "cpu"] {
        let out = folder.arg("o.safetensors");
        let arguments = ["replay", "--config", &config, "--params", &params, "--grads", &without, &with];
        let outcome = program(&[arguments.as_slice(), &["--out", &out, "--backend", backend]].concat(), &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(read(out.as_ref()), [frozen.clone(), named("w", &[1], &[0.5])]);
    }
}

/// A gradient of 1 each step, so that every step moves by the learning rate.
#[test]
fn losses_move_a_plateau() {
    let folder = Folder::new();
    let schedule = "kind = \"plateau\"\nfactor = 0.5\npatience = 1\n";
    let config = folder.write("run.toml", format!("[optimizer]\nrule = \"sgd\"\nlr = 1.0\n\n[schedule]\n{schedule}"));
    let params = folder.write("p.safetensors", serialize(&[named("w", &[1], &[0.0])]));
    let gradient = folder.write("g.safetensors", serialize(&[named("w", &[1], &[1.0])]));
    // After three losses without an improvement the rate falls: it acts on the fifth step.
    let losses = folder.write("losses.txt", "1.0\n0.5\n 0.5\n7e-1\n0.6\n");
    for backend in ["gpu", "cpu"] {
        let out = folder.arg("o.safetensors");
        let mut arguments = vec!["replay", "--config", &config, "--params", &params, "--out", &out];
        arguments.extend(["--backend", backend, "--losses", &losses, "--grads"]);
        arguments.extend([gradient.as_str(); 5]);
        let outcome = program(&arguments, &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(read(out.as_ref()), [named("w", &[1], &[-4.5])], "{backend}");
    }
}

#[test]
fn average_limits_and_ascent_need_no_argument() {
    let folder = Folder::new();
    let config = "[optimizer]\nrule = \"sgd\"\nlr = 1.0\nmaximize = true\n\n[weights]\nclip_value = 1.5\n\n\
                  [ema]\ndecay = 0.5\n";
    let config = folder.write("run.toml", config);
    let params = folder.write("p.safetensors", serialize(&[named("w", &[2], &[0.0, 0.5])]));
    let gradient = folder.write("g.safetensors", serialize(&[named("w", &[2], &[1.0, -0.25])]));
    for backend in ["gpu", "cpu"] {
        let (out, state) = (folder.arg("o.safetensors"), folder.arg("s.safetensors"));
        let mut arguments = vec!["replay", "--config", &config, "--params", &params, "--out", &out];
        arguments.extend(["--state-out", &state, "--backend", backend, "--grads", &gradient, &gradient]);
        let outcome = program(&arguments, &[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(read(out.as_ref()), [named("w", &[2], &[1.5, 0.0])], "{backend}");
        assert_eq!(read(state.as_ref()), [named("w.ema", &[2], &[1.25, 0.125])], "{backend}");
    }
}

#[test]
fn a_gradient_may_be_missing_where_that_is_asked_for() {
    let folder = Folder::new();
    let config = folder.write("run.toml", "[optimizer]\nrule = \"adam\"\nlr = 0.1\n");
    let (a, b) = (named("a", &[2], &[1.0, 2.0]), named("b", &[1], &[3.0]));
    let params = folder.write("p.safetensors", serialize(&[a.clone(), b.clone()]));
    let gradient = |name: &str, with_b: bool, x: f32| {
        let mut tensors = vec![named("a", &[2], &[x, -x])];
        tensors.extend(with_b.then(|| named("b", &[1], &[0.5 * x])));
        folder.write(name, serialize(&tensors))
    };
    let gradients = [gradient("g0", true, 1.0), gradient("g1", false, 0.3), gradient("g2", true, -0.2)];
    // As if b had been trained alone, without the file that lacks it.
    let alone = [("g0b", 0.5), ("g2b", -0.1f32)].map(|(n, x)| folder.write(n, serialize(&[named("b", &[1], &[x])])));
    let alone_params = folder.write("pb.safetensors", serialize(std::slice::from_ref(&b)));
    for backend in ["gpu", "cpu"] {
        let run = |params: &str, gradients: &[String], more: &[&str]| {
            let (out, state) = (folder.arg("o.safetensors"), folder.arg("s.safetensors"));
            let mut arguments = vec!["replay", "--backend", backend, "--config", &config, "--params", params];
            arguments.extend(["--out", &out, "--state-out", &state]);
            arguments.extend(more);
            arguments.push("--grads");
            arguments.extend(gradients.iter().map(String::as_str));
            let outcome = program(&arguments, &[]);
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
            let steps = |name: &str| {
                let bytes = std::fs::read(&state).unwrap();
                let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
                header.metadata().as_ref().unwrap().get(&format!("steps:{name}")).cloned()
            };
            (read(out.as_ref()), [steps("a"), steps("b")].map(Option::unwrap_or_default), outcome.stderr)
        };
        let (together, steps, stderr) = run(&params, &gradients, &["--missing-gradients"]);
        assert_eq!((steps, stderr.as_str()), (["3".to_owned(), "2".to_owned()], ""), "{backend}");
        let (alone, _, _) = run(&alone_params, &alone, &[]);
        assert_eq!(together[1], alone[0], "{backend}");

        // One that never has a gradient is told.
        let (out, _, stderr) = run(&params, &gradients[1..2], &["--missing-gradients"]);
        assert_eq!(out[1], b, "{backend}");
        assert_ne!(out[0], a, "{backend}");
        assert!(stderr.contains("--missing-gradients") && stderr.contains("\"b\""), "{stderr}");
    }
}

#[test]
fn losses_may_have_empty_lines_and_a_byte_order_mark() {
    let folder = Folder::new();
    let plateau = "kind = \"plateau\"\nfactor = 0.5\npatience = 0\n";
    let config = format!("\u{feff}[optimizer]\nrule = \"sgd\"\nlr = 1.0\n\n[schedule]\n{plateau}");
    let config = folder.write("run.toml", config);
    let params = folder.write("p.safetensors", serialize(&[named("w", &[1], &[0.0])]));
    let gradient = folder.write("g.safetensors", serialize(&[named("w", &[1], &[1.0])]));
    let run = |losses: &str| {
        let (losses, out) = (folder.write("losses.txt", losses), folder.arg("o.safetensors"));
        let mut arguments = vec!["replay", "--backend", "cpu", "--config", &config, "--params", &params, "--out", &out];
        arguments.extend(["--losses", &losses, "--grads", &gradient, &gradient, &gradient]);
        let outcome = program(&arguments, &[]);
        assert_eq!(outcome.code, 0, "{losses:?}: {}", outcome.stderr);
        let shown = program(&["schedule", "--config", &config, "--losses", &losses, "--json"], &[]);
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        (read(out.as_ref()), shown.stdout, outcome.stderr)
    };
    let plain = run("1.0\n2.0\n3.0\n");
    assert_eq!(plain.0, [named("w", &[1], &[-2.5])]);
    for losses in ["1.0\n2.0\n3.0\n\n", "\u{feff}1.0\r\n2.0\r\n3.0\r\n", "\n1.0\n\n 2.0 \n\t\n3.0"] {
        assert_eq!(run(losses), plain, "{losses:?}");
    }
    // More of them than steps are told.
    let (out, _, stderr) = run("1.0\n2.0\n3.0\n4.0\n");
    assert_eq!(out, plain.0);
    assert!(stderr.contains("4 losses for 3 steps"), "{stderr}");
}

/// A state goes on under another configuration where that is allowed, as a run does that changes in the middle.
#[test]
fn a_state_goes_on_under_another_configuration_where_that_is_allowed() {
    let folder = Folder::new();
    let plain = "[optimizer]\nrule = \"adam\"\nlr = 0.1\n";
    let (a, b) = (named("a", &[2], &[1.0, 2.0]), named("b", &[1], &[3.0]));
    let params = folder.write("p.safetensors", serialize(&[a, b]));
    let gradient = serialize(&[named("a", &[2], &[1.0, -1.0]), named("b", &[1], &[0.5])]);
    let gradient = folder.write("g.safetensors", gradient);
    let with = |more: &str| format!("{plain}{more}");
    let cases = [
        ("[gradient]\naccumulate = 2\n", "gradient.accumulate: 1, now 2", "gradient.accumulate"),
        ("[[groups]]\nmatch = \"b\"\nfrozen = true\n", "groups[0].frozen: none, now true", "groups"),
        ("[[groups]]\nmatch = \"b\"\nlr = 0.5\n", "groups[0].lr: none, now 0.5", "groups[0]"),
        ("[storage]\nseed = 7\n", "storage.seed: 0, now 7", "storage.seed"),
        ("[storage]\nparams = \"f16\"\nstate = \"bf16\"\n", "storage.params: \"f32\", now \"f16\"", "storage"),
    ];
    for backend in ["gpu", "cpu"] {
        for (more, told, allow) in cases {
            // There and back again.
            let there = (folder.write("one.toml", plain), folder.write("two.toml", with(more)));
            for (before, after) in [(&there.0, &there.1), (&there.1, &there.0)] {
                let (state, out) = (folder.arg("s.safetensors"), folder.arg("o.safetensors"));
                let run = |config: &str, more: &[&str]| {
                    let mut arguments = vec!["replay", "--backend", backend, "--params", &params, "--config", config];
                    arguments.extend(["--out", &out]);
                    arguments.extend(more);
                    arguments.extend(["--grads", &gradient, &gradient]);
                    program(&arguments, &[])
                };
                let first = run(before, &["--state-out", &state]);
                assert_eq!(first.code, 0, "{}", first.stderr);
                let refused = run(after, &["--state-in", &state]);
                assert_eq!(refused.code, 2, "{backend} {more}");
                let key = told.split(':').next().unwrap();
                assert!(refused.stderr.contains(key) && refused.stderr.contains("--allow"), "{}", refused.stderr);
                if before == &there.0 {
                    assert!(refused.stderr.contains(told), "{}", refused.stderr);
                }
                let other = run(after, &["--state-in", &state, "--allow", "weights,schedule.kind"]);
                assert_eq!(other.code, 2, "{backend} {more}");
                let allowed = run(after, &["--state-in", &state, "--allow", allow, "--json"]);
                assert_eq!(allowed.code, 0, "{backend} {more}: {}", allowed.stderr);
                let summary: Value = serde_json::from_str(&allowed.stdout).unwrap();
                let accumulates = |config: &str| std::fs::read_to_string(config).unwrap().contains("accumulate");
                let steps = |config: &str| if accumulates(config) { 1 } else { 2 };
                assert_eq!(summary["steps_taken"], steps(before) + steps(after), "{backend} {more}");
            }
        }
    }
}
