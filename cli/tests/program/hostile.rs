//! Every file that the program reads, cut, with bits flipped, or huge: an answer or an error of one line, never a
//! panic, a hang or memory beyond what the file is long.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixtures::{Folder, named, program, serialize};

/// A run may take this long; ordinary ones take a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Address space of a run, in KiB: the program with its threads, and no more than that again.
const ADDRESS_SPACE: u64 = 3 << 20;

struct Run {
    code: Option<i32>,
    stderr: String,
}

/// Runs the program with bounded memory and time.
fn bounded(arguments: &[String]) -> Run {
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {ADDRESS_SPACE}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_wgpu-optim")])
        .args(arguments)
        // Fewer threads, whose stacks count.
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("hangs: {arguments:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    Run { code: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// The file cut, flipped and lengthened in ways that look random and are the same in every run.
fn mutations(bytes: &[u8], seed: u32) -> Vec<Vec<u8>> {
    let mut state = seed;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below.max(1)
    };
    let mut all = vec![Vec::new(), bytes[..bytes.len() / 2].to_vec(), [bytes, bytes].concat()];
    for _ in 0..4 {
        all.push(bytes[..next(bytes.len())].to_vec());
    }
    for _ in 0..12 {
        let mut flipped = bytes.to_vec();
        // Most of what can go wrong stands at the start.
        let place = if next(3) == 0 { next(flipped.len()) } else { next(flipped.len().min(300)) };
        flipped[place] ^= 1 << next(8);
        all.push(flipped);
    }
    // A length that passes every memory, and one that passes the file.
    for claim in [u64::MAX, 1 << 40, 90 << 20] {
        let mut lying = bytes.to_vec();
        lying.splice(..8.min(bytes.len()), claim.to_le_bytes());
        all.push(lying);
    }
    all
}

/// A run of the program that reads all kinds of files: which arguments lead to them.
struct Kinds {
    folder: Folder,
    runs: Vec<(&'static str, Vec<String>)>,
}

fn kinds() -> Kinds {
    let folder = Folder::new();
    let tensors = [named("a", &[3], &[1.0, 2.0, 3.0]), named("b", &[2, 2], &[1.0; 4])];
    let params = folder.write("p.safetensors", serialize(&tensors));
    let grads = folder.write("g.safetensors", serialize(&tensors));
    let plain = "[optimizer]\nrule = \"adamw\"\nlr = 0.1\n\n[[groups]]\nmatch = \"a*\"\nbetas = [0.8, 0.99]\n\n[gradient]\n\
                 clip_global_norm = 1.0\nloss_scale = 8.0\n\n[schedule]\nkind = \"plateau\"\npatience = 2\n";
    let config = folder.write("run.toml", plain);
    let losses = folder.write("losses.txt", "0.5\n0.25\n");
    let state = folder.arg("state.safetensors");
    let base = ["replay", "--backend", "cpu", "--config", &config, "--params", &params, "--losses", &losses];
    let out = folder.arg("out.safetensors");
    let tail = ["--grads", &grads, "--out", &out];
    let run = program(&[base.as_slice(), &["--state-out", &state], &tail].concat(), &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let replay: Vec<_> = [base.as_slice(), &["--state-in", &state], &tail].concat();
    let replay: Vec<String> = replay.into_iter().map(str::to_owned).collect();
    let checkpoint = folder.arg("checkpoint.safetensors");
    let train = ["train", "--quiet", "--backend", "cpu", "--epochs", "1"];
    let run = program(&[train.as_slice(), &["--checkpoint", &checkpoint]].concat(), &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let resume: Vec<String> =
        [train.as_slice(), &["--resume", &checkpoint]].concat().into_iter().map(str::to_owned).collect();
    let files = ["run.toml", "p.safetensors", "g.safetensors", "losses.txt", "state.safetensors"];
    let mut runs: Vec<_> = files.into_iter().map(|file| (file, replay.clone())).collect();
    runs.push(("checkpoint.safetensors", resume));
    Kinds { folder, runs }
}

fn check(run: &Run, what: &str) {
    // Drivers' own words, and notices of what is no error: more losses than steps, a configuration that went missing.
    let notices = ["XDG_RUNTIME_DIR", "the rest is not used", "does not say its configuration"];
    let harmless = |line: &str| notices.iter().any(|words| line.contains(words));
    let lines: Vec<_> = run.stderr.lines().filter(|line| !harmless(line)).collect();
    assert!(matches!(run.code, Some(0..=2)), "{what}: ended with {:?}: {lines:?}", run.code);
    let expected = usize::from(run.code != Some(0));
    assert_eq!(lines.len(), expected, "{what}: {lines:?}");
}

#[test]
fn spoiled_files_of_every_kind_get_an_answer() {
    let Kinds { folder, runs } = kinds();
    let (mut refused, mut tried) = (0, 0);
    for (seed, (file, arguments)) in (1u32..).zip(&runs) {
        let path: PathBuf = folder.path(file);
        let whole = std::fs::read(&path).unwrap();
        check(&bounded(arguments), &format!("{file}, whole"));
        for (index, bytes) in mutations(&whole, seed).into_iter().enumerate() {
            std::fs::write(&path, &bytes).unwrap();
            let run = bounded(arguments);
            check(&run, &format!("{file}, mutation {index}"));
            tried += 1;
            refused += u32::from(run.code != Some(0));
        }
        std::fs::write(&path, &whole).unwrap();
    }
    println!("reliability: spoiled files given to the program: {tried}; {refused} refused, the others harmless");
    assert!(refused > tried / 2, "{refused} of {tried}");
}

#[test]
fn huge_files_of_every_kind_get_an_answer() {
    let Kinds { folder, runs } = kinds();
    for (file, arguments) in &runs {
        let path = folder.path(file);
        let whole = std::fs::read(&path).unwrap();
        // Sparse: it takes no room on the disk. Longer than the address space, so that reading it all cannot be
        // what happens.
        for size in [64u64 << 20, 1 << 42] {
            let huge = std::fs::File::options().write(true).open(&path).unwrap();
            huge.set_len(size).unwrap();
            drop(huge);
            let run = bounded(arguments);
            check(&run, &format!("{file} of {size} bytes"));
            assert_eq!(run.code, Some(2), "{file} of {size} bytes: {}", run.stderr);
            std::fs::write(&path, &whole).unwrap();
        }
    }
}
