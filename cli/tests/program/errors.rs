//! Bad input ends with exit code 2 and one line that names the culprit, and leaves old files whole.

use safetensors::tensor::{Dtype, TensorView};

use crate::fixtures::{Folder, changed_config, named, program, serialize, without_config};

const CONFIG: &str = "[optimizer]\nrule = \"adamw\"\nlr = 0.1\n";

/// A replay that would succeed, until a test spoils one of its files or arguments.
struct Replay {
    folder: Folder,
    arguments: Vec<String>,
}

impl Replay {
    fn new() -> Self {
        let folder = Folder::new();
        let tensors = [named("a", &[3], &[1.0, 2.0, 3.0]), named("b", &[2, 2], &[1.0; 4])];
        let mut arguments = vec!["replay".to_owned(), "--backend".to_owned(), "cpu".to_owned()];
        arguments.extend(["--config".to_owned(), folder.write("run.toml", CONFIG)]);
        arguments.extend(["--params".to_owned(), folder.write("p.safetensors", serialize(&tensors))]);
        arguments.extend(["--out".to_owned(), folder.write("o.safetensors", "old")]);
        arguments.extend(["--state-out".to_owned(), folder.write("s.safetensors", "old state")]);
        arguments.extend(["--grads".to_owned(), folder.write("g0.safetensors", serialize(&tensors))]);
        arguments.push(folder.write("g1.safetensors", serialize(&tensors)));
        Self { folder, arguments }
    }

    /// Runs it and checks that it fails as it should, naming all of `culprits`.
    fn fails(&self, culprits: &[&str]) {
        let before = self.folder.names();
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let outcome = program(&arguments, &[]);
        assert_eq!(outcome.code, 2, "{culprits:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        for culprit in culprits {
            assert!(outcome.stderr.contains(culprit), "{culprit:?} is not named in {:?}", outcome.stderr);
        }
        assert_eq!(std::fs::read(self.folder.path("o.safetensors")).unwrap(), b"old");
        assert_eq!(std::fs::read(self.folder.path("s.safetensors")).unwrap(), b"old state");
        assert_eq!(self.folder.names(), before, "a file was left behind");
    }

    fn with(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        self.folder.write(name, contents);
        self
    }

    fn with_argument(mut self, flag: &str, value: &str) -> Self {
        match self.arguments.iter().position(|a| a == flag) {
            Some(at) => self.arguments[at + 1] = value.to_owned(),
            None => self.arguments.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }

    fn half_of(self, name: &str) -> Self {
        let bytes = std::fs::read(self.folder.path(name)).unwrap();
        self.with(name, &bytes[..bytes.len() / 2])
    }
}

#[test]
fn the_replay_to_spoil_succeeds() {
    let replay = Replay::new();
    let arguments: Vec<_> = replay.arguments.iter().map(String::as_str).collect();
    let outcome = program(&arguments, &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "2 steps taken, 0 skipped; on the CPU\n");
    let names = ["g0.safetensors", "g1.safetensors", "o.safetensors", "p.safetensors", "run.toml", "s.safetensors"];
    assert_eq!(replay.folder.names(), names);
    assert_ne!(std::fs::read(replay.folder.path("o.safetensors")).unwrap(), b"old");
}

#[test]
fn bad_configurations() {
    for (text, culprits) in [
        ("[optimizer]\nrule = \"adamw\"\nmomentumm = 0.9\n", ["optimizer.momentumm", "allowed are"].as_slice()),
        ("[optimizer]\nrule = \"adamw\"\n\n[optimiser]\nlr = 1\n", &["optimiser"]),
        ("[optimizer]\nrule = \"adamw\"\nlr = \"fast\"\n", &["lr", "expected a number"]),
        ("[optimizer]\nrule = \"adamw\"\nlr = 2020-01-01\n", &["line 3 (lr = ", "expected true or false, a number"]),
        ("[optimizer]\nrule = \"adamw\"\nbetas = [[0.9]]\n", &["line 3 (betas = ", "a list of numbers"]),
        ("[optimizer]\nrule = \"adamw\"\nbetas = [\"a\"]\n", &["line 3 (betas = ", "a list of numbers"]),
        ("[optimizer]\nrule = \"adamw\"\nbetas = { a = { b = 1 } }\n", &["line 3 (betas = ", "a table of numbers"]),
        ("[optimizer]\nrule = \"adamw\"\nlr = -1.0\n", &["optimizer.lr", "at least 0"]),
        ("[optimizer]\nrule = \"adamw\"\nlr = = 3\n", &["line 3", "lr = = 3"]),
        ("[optimizer]\nrule = \"adamv\"\n", &["adamv", "adamw"]),
        ("[optimizer]\nlr = 1\n", &["rule"]),
        ("", &["optimizer"]),
        ("[optimizer]\nrule = \"sgd\"\n\n[[groups]]\nmatch = \"c*\"\nlr = 1.0\n", &["c*", "matches no tensor"]),
        ("[optimizer]\nrule = \"rprop\"\n\n[schedule]\nkind = \"exponential\"\ngamma = 0.5\n", &["acts on nothing"]),
        ("[optimizer]\nrule = \"sgd\"\n\n[[groups]]\nmatch = \"a\"\nbetas = [0.9, 0.99]\n", &["\"a\"", "betas"]),
        ("[optimizer]\nrule = \"sgd\"\n\n[gradient]\nclip_norm = 1\n", &["gradient.clip_norm"]),
        ("[optimizer]\nrule = \"sgd\"\n\n[schedule]\nkind = \"sine\"\n", &["sine", "cosine"]),
    ] {
        Replay::new().with("run.toml", text).fails(&[culprits, &["run.toml"]].concat());
    }
    Replay::new().with("run.toml", [0xff, 0xfe]).fails(&["run.toml", "UTF-8"]);
    Replay::new().with_argument("--config", "nowhere.toml").fails(&["nowhere.toml"]);
}

#[test]
fn bad_parameters() {
    let doubles = 1.0f64.to_le_bytes();
    let view = TensorView::new(Dtype::F64, vec![1], &doubles).unwrap();
    let doubles = safetensors::serialize([("a", view)], None).unwrap();
    Replay::new().with("p.safetensors", doubles).fails(&["p.safetensors", "\"a\"", "F64"]);
    Replay::new().with("p.safetensors", "not tensors").fails(&["p.safetensors", "safetensors file"]);
    Replay::new().with("p.safetensors", serialize(&[])).fails(&["p.safetensors", "no tensors"]);
    Replay::new().with("p.safetensors", "").fails(&["p.safetensors"]);
    // A header that claims to be longer than any memory, and one that claims 90 MB.
    Replay::new().with("p.safetensors", [0xff; 16]).fails(&["p.safetensors"]);
    Replay::new().with("p.safetensors", [0, 0, 0x60, 5, 0, 0, 0, 0, b'{']).fails(&["p.safetensors"]);
    Replay::new().half_of("p.safetensors").fails(&["p.safetensors"]);
    let folder = Folder::new();
    Replay::new().with_argument("--params", &folder.arg("")).fails(&["not a regular file"]);
}

#[test]
fn bad_gradients() {
    let (a, b) = (named("a", &[3], &[1.0; 3]), named("b", &[2, 2], &[1.0; 4]));
    let spoil = |tensors: &[_]| Replay::new().with("g1.safetensors", serialize(tensors));
    spoil(std::slice::from_ref(&a)).fails(&["g1.safetensors", "lacks", "\"b\"", "frozen", "--missing-gradients"]);
    spoil(&[a.clone(), named("b", &[4], &[1.0; 4])]).fails(&["g1.safetensors", "\"b\"", "[4]", "[2, 2]"]);
    spoil(&[a.clone(), b.clone(), named("c", &[1], &[1.0])]).fails(&["g1.safetensors", "\"c\""]);
    let whole = [0u8; 12];
    let view = TensorView::new(Dtype::I32, vec![3], &whole).unwrap();
    let whole = safetensors::serialize([("a", view)], None).unwrap();
    Replay::new().with("g1.safetensors", whole).fails(&["g1.safetensors", "\"a\"", "I32", "F32, F16 or BF16"]);
    Replay::new().half_of("g1.safetensors").fails(&["g1.safetensors"]);
    // The same from the device, with a step already taken on it.
    Replay::new().half_of("g1.safetensors").with_argument("--backend", "gpu").fails(&["g1.safetensors"]);
    let missing = Replay::new();
    std::fs::remove_file(missing.folder.path("g1.safetensors")).unwrap();
    missing.fails(&["g1.safetensors"]);
}

#[test]
fn bad_states() {
    let state = |config: &str| {
        let run = Replay::new().with("run.toml", config);
        let arguments: Vec<_> = run.arguments.iter().map(String::as_str).collect();
        assert_eq!(program(&arguments, &[]).code, 0);
        std::fs::read(run.folder.path("s.safetensors")).unwrap()
    };
    let with = |state: &[u8]| {
        let replay = Replay::new().with("in.safetensors", state);
        let path = replay.folder.arg("in.safetensors");
        replay.with_argument("--state-in", &path)
    };
    with(&state("[optimizer]\nrule = \"adam\"\n"))
        .fails(&["in.safetensors", "optimizer.rule: \"adam\", now \"adamw\""]);
    with(&state("[optimizer]\nrule = \"sgd\"\n")).fails(&["in.safetensors", "optimizer.rule", "optimizer.betas: none"]);
    with(&without_config(&state("[optimizer]\nrule = \"adam\"\n"))).fails(&["in.safetensors", "\"a\"", "adam"]);
    with(&without_config(&state("[optimizer]\nrule = \"sgd\"\n"))).fails(&["in.safetensors", "a.exp_avg"]);
    with(&state("[optimizer]\nrule = \"adamw\"\nlr = 0.2\n")).fails(&["in.safetensors", "optimizer.lr: 0.2, now 0.1"]);
    let spoiled = changed_config(&state(CONFIG), "[optimizer]\nrule = 3\n");
    with(&spoiled).fails(&["in.safetensors", "configuration in it cannot be read"]);
    with(&serialize(&[named("a.exp_avg", &[3], &[0.0; 3])])).fails(&["in.safetensors"]);
    with(b"nothing").fails(&["in.safetensors"]);
}

#[test]
fn gradients_that_make_no_whole_steps() {
    let accumulate = |k| format!("{CONFIG}\n[gradient]\naccumulate = {k}\n");
    Replay::new().with("run.toml", accumulate(3)).fails(&["--grads", "2 files", "accumulate = 3", "2 would be left"]);
    Replay::new().with("run.toml", accumulate(0)).fails(&["gradient.accumulate", "from 1"]);
}

#[test]
fn a_dynamic_loss_scale() {
    let dynamic = format!("{CONFIG}\n[gradient]\nloss_scale = {{ init = 1024.0 }}\n");
    Replay::new().with("run.toml", dynamic).fails(&["run.toml", "gradient.loss_scale", "dynamic"]);
}

#[test]
fn bad_losses() {
    let with = |losses: &str| {
        let plateau = format!("{CONFIG}\n[schedule]\nkind = \"plateau\"\n");
        let replay = Replay::new().with("run.toml", plateau).with("losses.txt", losses);
        let path = replay.folder.arg("losses.txt");
        replay.with_argument("--losses", &path)
    };
    with("0.5\n").fails(&["losses.txt", "1 losses for 2 steps"]);
    with("0.5\nlow\n").fails(&["losses.txt", "line 2", "\"low\""]);
    with("0.5\n\nlow\n").fails(&["losses.txt", "line 3", "\"low\""]);
    with("\n 0.5\n\n").fails(&["losses.txt", "1 losses for 2 steps"]);
    let constant = with("0.5\n0.4\n").with("run.toml", CONFIG);
    constant.fails(&["--losses", "plateau"]);
    let replay = Replay::new().with("run.toml", format!("{CONFIG}\n[schedule]\nkind = \"plateau\"\n"));
    replay.fails(&["--losses is missing"]);
}

#[test]
fn bad_outputs() {
    let replay = Replay::new();
    let path = replay.folder.arg("nowhere/o.safetensors");
    replay.with_argument("--out", &path).fails(&["nowhere/o.safetensors"]);
    let replay = Replay::new();
    let path = replay.folder.arg("./s.safetensors");
    replay.with_argument("--out", &path).fails(&["s.safetensors", "two outputs"]);
    let replay = Replay::new();
    let folder = Folder::new();
    replay.with_argument("--out", &folder.arg("")).fails(&["not a regular file"]);
    // What is read stays, but for parameters and state, which a run replaces.
    for input in ["run.toml", "g0.safetensors"] {
        let replay = Replay::new();
        let path = replay.folder.arg(&format!("./{input}"));
        replay.with_argument("--out", &path).fails(&[input, "is read"]);
    }
}

/// Everything that a command writes is tried before it works, however long it would.
#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_work() {
    let folder = Folder::new();
    let config = folder.write("run.toml", CONFIG);
    // Some file systems take no such name at all, and this one no such file.
    let mut paths = vec![folder.arg(&"n".repeat(300)), folder.arg("nowhere/file")];
    if cfg!(target_os = "linux") {
        paths.push("/proc/file".to_owned());
    }
    for path in &paths {
        for flag in ["--plot", "--report", "--params-out", "--checkpoint"] {
            let arguments = ["train", "--backend", "cpu", "--epochs", "1000000", flag, path];
            let outcome = program(&arguments, &[]);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(path.as_str()), "{}", outcome.stderr);
        }
        for flag in ["--out", "--state-out"] {
            Replay::new().with_argument(flag, path).fails(&[path]);
        }
        for arguments in [
            ["schedule", "--config", &config, "--plot", path].as_slice(),
            &["race", "--plot", path],
            &["bench", "--backend", "cpu", "--plot", path],
        ] {
            let outcome = program(arguments, &[]);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(path.as_str()), "{}", outcome.stderr);
        }
    }
    assert_eq!(folder.names(), ["run.toml"]);
}

#[cfg(unix)]
#[test]
fn paths_that_are_not_utf_8_serve_as_well_as_others() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    let replay = Replay::new();
    let odd = |name: &[u8]| replay.folder.path("").join(OsStr::from_bytes(&[name, b"\xff\xfe"].concat()));
    let run = |arguments: &[OsString]| {
        let output = Command::new(env!("CARGO_BIN_EXE_wgpu-optim")).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let words = |text: &[&str]| text.iter().map(OsString::from).collect::<Vec<_>>();
    let mut arguments: Vec<OsString> = replay.arguments.iter().map(OsString::from).collect();
    for (flag, name) in [("--config", "run.toml"), ("--params", "p.safetensors")] {
        let path = odd(name.as_bytes());
        std::fs::copy(replay.folder.path(name), &path).unwrap();
        let at = arguments.iter().position(|a| a == flag).unwrap();
        arguments[at + 1] = path.into();
    }
    for (flag, name) in [("--out", b"o".as_slice()), ("--state-out", b"s")] {
        let at = arguments.iter().position(|a| a == flag).unwrap();
        arguments[at + 1] = odd(name).into();
    }
    arguments.push("--json".into());
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("steps_taken"), "{stdout}");
    assert!(odd(b"o").exists() && odd(b"s").exists());

    // Named in a message, and as every file of a training run.
    let mut missing = arguments.clone();
    let at = missing.iter().position(|a| a == "--params").unwrap();
    missing[at + 1] = odd(b"nowhere").into();
    let (code, _, stderr) = run(&missing);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("nowhere") && !stderr.contains("panicked"), "{stderr}");
    let mut train = words(&["train", "--quiet", "--json", "--backend", "cpu", "--epochs", "1"]);
    for (flag, name) in
        [("--plot", b"l".as_slice()), ("--report", b"r"), ("--params-out", b"t"), ("--checkpoint", b"c")]
    {
        train.extend([flag.into(), odd(name).into()]);
    }
    let (code, _, stderr) = run(&train);
    assert_eq!(code, Some(0), "{stderr}");
    train.extend(["--resume".into(), odd(b"c").into()]);
    let (code, _, stderr) = run(&train);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = run(&[OsStr::from_bytes(b"tr\xffin").to_owned()]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn options_that_would_act_on_nothing() {
    for (arguments, culprit) in [
        (["race", "--on", "digits", "--steps", "9"].as_slice(), "--steps"),
        (&["race", "--on", "beale,saddle", "--epochs", "9"], "--epochs"),
        (&["bench", "--backend", "cpu", "--buffers", "own"], "--buffers"),
        (&["train", "--allow", "seed"], "--resume"),
        (&["train", "--epochs", "1000000", "--plot", "loss.PNG"], "SVG"),
        (&["race", "--plot", "race.pdf"], "SVG"),
        (&["train", "--resume", "c", "--allow", "sead"], "sead"),
    ] {
        let outcome = program(arguments, &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(culprit), "{culprit:?} is not named in {:?}", outcome.stderr);
    }
}

#[test]
fn bad_usage() {
    for arguments in [
        ["replay"].as_slice(),
        &["replay", "--config", "c", "--params", "p", "--out", "o", "--grads"],
        &["train", "--epochs", "0"],
        &["train", "--batch", "1438"],
        &["train", "--backend", "abacus"],
        &["schedule"],
        &["schedule", "--config", "c", "--steps", "0"],
        &["verify", "--rule", "adamv"],
        &["verify", "--steps", "0"],
        &["bench", "--rule", "adamv"],
        &["bench", "--elements", "many"],
        &["bench", "--elements", "10", "--tensors", "100", "--backend", "cpu"],
        &["fly"],
        &[],
    ] {
        let outcome = program(arguments, &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{arguments:?}");
    }
}

#[test]
fn without_an_adapter_auto_falls_back_and_gpu_fails() {
    let none = [("WGPU_ADAPTER_NAME", "no such adapter")];
    let run = |backend: &str| {
        let replay = Replay::new().with_argument("--backend", backend);
        let arguments: Vec<_> = replay.arguments.iter().map(String::as_str).collect();
        (program(&arguments, &none), std::fs::read(replay.folder.path("o.safetensors")).unwrap())
    };
    let (outcome, out) = run("auto");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.ends_with("on the CPU\n"), "{}", outcome.stdout);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("computing on the CPU"), "{}", outcome.stderr);
    assert_ne!(out, b"old");

    let (outcome, out) = run("gpu");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("no usable GPU adapter"), "{}", outcome.stderr);
    assert_eq!(out, b"old");
}
