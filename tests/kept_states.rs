//! States that were written once load for good and go on as they did: `tests/fixtures/kept_states/README.md` says
//! what lies there and how more is added.

mod support;

#[path = "kept_states/cases.rs"]
mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use support::digest::Digest;
use support::grid::{Grid, compare};
use support::model::{Model, Place};
use support::oracle::Run;
use support::{Numbers, gpu, wide};
use wgpu_optim::verify;
use wgpu_optim::{Checkpoint, OptimizerConfig, OptimizerState, TensorSpec, TensorState, rules};

/// Micro-batches that each goes on for.
const MORE: u64 = 4;

/// What a file holds of the caller's: its tensors' names and shapes, those of frozen ones too.
const TENSORS: &str = "tensors";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kept_states")
}

fn draw(specs: &[TensorSpec], seed: u64, size: f32) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    let mut one = |s: &TensorSpec| numbers.take(s.elements().unwrap() as usize).iter().map(|x| x * size).collect();
    specs.iter().map(&mut one).collect()
}

/// The gradients of a micro-batch, of a loss of that scale. A tensor called so is late: it misses the first two, and
/// one of those after the file.
fn gradients(specs: &[TensorSpec], batch: u64, scale: f64) -> Vec<Option<Vec<f32>>> {
    let missing = |spec: &TensorSpec| spec.name == "late" && [0, 1, 101].contains(&batch);
    let all = specs.iter().zip(draw(specs, 1000 + batch, 0.5 * scale as f32));
    all.map(|(spec, gradient)| (!missing(spec)).then_some(gradient)).collect()
}

fn specs_to_text(specs: &[TensorSpec]) -> String {
    let shapes: BTreeMap<_, _> = specs.iter().map(|spec| (&spec.name, &spec.shape)).collect();
    let order: Vec<_> = specs.iter().map(|spec| &spec.name).collect();
    serde_json::to_string(&(order, shapes)).unwrap()
}

fn specs_of_text(text: &str) -> Vec<TensorSpec> {
    let (order, shapes): (Vec<String>, BTreeMap<String, Vec<u64>>) = serde_json::from_str(text).unwrap();
    order.into_iter().map(|name| TensorSpec::new(name.clone(), shapes[&name].clone())).collect()
}

/// A file as it was written.
struct Kept {
    name: String,
    config: OptimizerConfig,
    specs: Vec<TensorSpec>,
    bytes: Vec<u8>,
}

impl Kept {
    fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let specs = specs_of_text(&header.metadata().as_ref().unwrap()[&format!("extra:{TENSORS}")]);
        let config = Checkpoint::config_from_safetensors(&bytes).unwrap().unwrap();
        let config = toml::from_str(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name, config, specs, bytes }
    }

    fn all() -> Vec<Self> {
        let mut paths: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
        paths.sort();
        assert!(!paths.is_empty(), "no kept states");
        paths.iter().map(|path| Self::load(path)).collect()
    }

    /// What was read, and an optimizer on the CPU as the one was that wrote it. A state without parameters goes with any.
    fn resumed(&self) -> (Checkpoint, Run<f32>) {
        let mut run = Run::<f32>::new(&self.config, &self.specs, &draw(&self.specs, 77, 1.0));
        let plan = run.optimizer.plan().clone();
        let kept = Checkpoint::from_safetensors(&self.bytes, &plan).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        if let Some(params) = kept.params_in_order(&plan).unwrap() {
            run.params = params.into_iter().map(|p| p.values.clone()).collect();
        }
        for (t, params) in run.params.iter_mut().enumerate() {
            params.iter_mut().for_each(|x| *x = plan.formats_of(t)[0].round(*x));
        }
        run.optimizer.load_state(&kept.state).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        (kept, run)
    }

    /// What is written after more micro-batches on the CPU: a line for what belongs to no tensor, and one for each.
    fn results(&self) -> Vec<String> {
        let (_, mut run) = self.resumed();
        for batch in 0..MORE {
            let scale = run.optimizer.loss_scale();
            run.step(&gradients(&self.specs, 100 + batch, scale));
        }
        let written = cases::write(&run, &self.specs, true);
        let Checkpoint { params, state, .. } = Checkpoint::from_safetensors(&written, run.optimizer.plan()).unwrap();
        let of_tensor = |params: wgpu_optim::TensorParams| {
            let state = state.tensor(&params.name).map_or("none".to_owned(), |tensor| digest(tensor).to_string());
            let digest = Digest::new().floats(&params.values);
            format!("{} {}: parameters {digest} state {state}", self.name, params.name)
        };
        let whole = format!("{}: {}", self.name, beside_tensors(&state));
        std::iter::once(whole).chain(params.unwrap().into_iter().map(of_tensor)).collect()
    }
}

fn beside_tensors(state: &OptimizerState) -> String {
    let OptimizerState { steps_taken, steps_skipped, micro_batches, loss_scale, good_steps, .. } = state;
    let mut text = format!(
        "{steps_taken} taken, {steps_skipped} skipped, {micro_batches} micro-batches, scale {loss_scale:?}, {good_steps} good"
    );
    text += &format!(", plateau {:?} {:?}", state.plateau.factor, state.plateau.best);
    for group in state.rates.iter().flat_map(|rates| &rates.groups) {
        text += &format!(", lr {:?} weight decay {:?}", group.lr, group.weight_decay);
    }
    text
}

fn digest(tensor: &TensorState) -> Digest {
    // Σγ² is the host's, in f64, and of rates that a library of maths may have had its part in.
    let head = format!("{:?} {} {} {}", tensor.shape, tensor.rule, tensor.steps, tensor.weight_sum as f32);
    let digest = Digest::new().text(&head);
    let digest = tensor.slots.iter().fold(digest, |digest, (name, values)| digest.text(name).floats(values));
    tensor.storage.iter().fold(digest, |digest, own| {
        digest.text(&format!("{} {:?} {}", own.slot, own.format, own.signed)).floats(&own.scales)
    })
}

/// Values by bits, which NaN compares by too.
fn bits(params: &[Vec<f32>], state: &OptimizerState) -> (Vec<Vec<u32>>, String, Vec<String>) {
    let params = params.iter().map(|p| p.iter().map(|x| x.to_bits()).collect()).collect();
    let tensors = state.tensors.iter().map(|t| format!("{} {}", t.name, digest(t))).collect();
    (params, beside_tensors(state), tensors)
}

#[test]
fn old_states_go_on_to_the_same_bits_on_the_cpu() {
    let kept = Kept::all();
    for kept in &kept {
        let (read, run) = kept.resumed();
        assert!(bits(&[], &run.optimizer.state()) == bits(&[], &read.state), "{} is not what was loaded", kept.name);
    }
    let found: Vec<_> = kept.iter().flat_map(Kept::results).collect();
    let recorded = std::fs::read_to_string(folder().join("results.txt")).unwrap();
    let recorded: Vec<_> = recorded.lines().collect();
    let misses: Vec<_> = found.iter().filter(|line| !recorded.contains(&line.as_str())).collect();
    assert!(misses.is_empty(), "{} of {} lines are not as recorded: {misses:#?}", misses.len(), found.len());
    assert_eq!(found.len(), recorded.len(), "a recorded result has no file");
}

/// Loaded to the bit; then each step by itself from the same stored numbers, with the tolerance of the tests of storages.
#[test]
fn old_states_go_on_as_the_oracle_does_on_the_gpu() {
    let mut misses = Vec::new();
    for kept in Kept::all() {
        let (read, run) = kept.resumed();
        let mut model = Model::new(&gpu(), &kept.config, &kept.specs, &run.params, Place::Arena);
        if read.params.is_some() {
            let poison: Vec<_> = run.params.iter().map(|p| vec![f32::NAN; p.len()]).collect();
            model.write_params(&poison);
        }
        model.optimizer.load_checkpoint(&read).unwrap();
        let loaded = bits(&model.params(), &model.optimizer.state_blocking().unwrap());
        assert!(loaded == bits(&run.params, &read.state), "{} is not what was loaded", kept.name);
        for batch in 0..MORE {
            let mut exact = Run::<f64>::new(&kept.config, &kept.specs, &model.params());
            exact.optimizer.load_state(&model.optimizer.state_blocking().unwrap().map(|x| f64::from(*x))).unwrap();
            let gradients = gradients(&kept.specs, 100 + batch, exact.optimizer.loss_scale());
            exact.step(&gradients.iter().map(|g| g.as_ref().map(|g| wide(g))).collect::<Vec<_>>());
            model.step_some(&gradients);
            misses.extend(misses_of(&kept, &model, &exact).into_iter().map(|miss| format!("batch {batch}: {miss}")));
        }
        // The tensors' own numbers are compared above.
        let (found, expected) = (model.optimizer.state_blocking().unwrap(), kept.results());
        let whole = format!("{}: {}", kept.name, beside_tensors(&found));
        misses.extend((whole != expected[0]).then(|| format!("{whole}, expected {}", expected[0])));
    }
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

fn misses_of(kept: &Kept, model: &Model, exact: &Run<f64>) -> Vec<String> {
    let mut misses = Vec::new();
    let mut check = |what: &str, grid: &Grid, found: &[f32], exact: &[f64]| {
        assert_eq!(found.len(), exact.len(), "{what}");
        // What a slot starts from may be NaN.
        let same = |(found, exact): (&f32, &f64)| !(found.is_nan() && exact.is_nan());
        let pairs = found.iter().zip(exact).filter(|pair| same(*pair));
        let (found, exact): (Vec<f32>, Vec<f64>) = pairs.unzip();
        compare(what, grid, &found, &exact, &mut misses);
    };
    for (t, (found, exact_params)) in model.params().iter().zip(exact.params_f64()).enumerate() {
        let grid = Grid::Float(model.optimizer.plan().formats_of(t)[0]);
        check(&format!("{} {}", kept.name, kept.specs[t].name), &grid, found, &exact_params);
    }
    let (found, state) = (model.optimizer.state_blocking().unwrap(), exact.optimizer.state());
    for (found, exact) in found.tensors.iter().zip(&state.tensors) {
        assert_eq!((&found.name, found.steps), (&exact.name, exact.steps), "{}", kept.name);
        for ((name, values), (_, expected)) in found.slots.iter().zip(&exact.slots) {
            let what = format!("{} {}.{name}", kept.name, found.name);
            check(&what, &Grid::of_slot(exact, name), values, expected);
        }
    }
    misses
}

#[test]
fn every_rule_is_kept_in_every_storage() {
    let mut kept = BTreeSet::new();
    for file in Kept::all() {
        let (_, run) = file.resumed();
        kept.extend(run.optimizer.plan().groups.iter().map(|g| format!("{} {}", g.rule.name(), g.storage)));
    }
    for rule in rules::all() {
        for (name, storage) in verify::named_storages() {
            let config = OptimizerConfig::from_boxed(rule.boxed()).storage(storage);
            let run = Run::<f32>::new(&config, &[], &[]);
            let wanted = format!("{} {}", rule.name(), run.optimizer.plan().groups[0].storage);
            assert!(kept.contains(&wanted), "no kept state of {} in {name}: add one", rule.name());
        }
    }
}

#[test]
#[ignore = "writes files that are not there: the folder's README.md says when"]
fn add_states() {
    for case in cases::all() {
        let path = folder().join(format!("{}.safetensors", case.name));
        if !path.exists() {
            std::fs::write(path, case.made()).unwrap();
        }
    }
}

#[test]
#[ignore = "writes what today's code makes of the files: the folder's README.md says when"]
fn record_results() {
    let lines: Vec<_> = Kept::all().iter().flat_map(Kept::results).collect();
    std::fs::write(folder().join("results.txt"), lines.join("\n") + "\n").unwrap();
}
