//! State that PyTorch's optimizers had: recorded checkpoints, made of real ones by `scripts/torch_state.py`
//! (`tests/torch/record.py`), go on here to where PyTorch went. `scripts/torch_check` does both directions with
//! PyTorch at hand.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use support::model::{Model, Place};
use support::oracle::Run;
use support::{gpu, update_error, wide};
use wgpu_optim::plan::Plan;
use wgpu_optim::{Checkpoint, Format, OptimizerConfig, StorageConfig, TensorSpec};

const NAMES: [&str; 3] = ["layer.weight", "layer.bias", "scale"];
const STEPS: usize = 4;

/// Both sides compute in f32 and round at other places. The measure of `tests/golden`.
const LIMIT: f64 = 1e-5;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch/recorded").join(name)
}

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

/// The tensors of a file, and its metadata.
fn read(path: &Path) -> (Tensors, BTreeMap<String, String>) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (name, (view.shape().iter().map(|n| *n as u64).collect(), values))
    });
    (tensors.collect(), header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect())
}

#[test]
fn runs_of_torch_go_on_here() {
    let mut cases = 0;
    let (gradients, _) = read(&recorded("gradients.safetensors"));
    let gradients: Vec<Vec<Vec<f32>>> = (0..STEPS)
        .map(|step| NAMES.iter().map(|name| gradients[&format!("{step}.{name}")].1.clone()).collect())
        .collect();
    for entry in std::fs::read_dir(recorded("")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(case) = file.strip_suffix(".after.safetensors") else { continue };
        cases += 1;
        let (after, said) = read(&recorded(&file));
        let config: OptimizerConfig = toml::from_str(&said["config"]).unwrap();
        let specs: Vec<_> = NAMES.iter().map(|name| TensorSpec::new(*name, after[*name].0.clone())).collect();
        let plan = Plan::new(&config, &specs).unwrap();
        let checkpoint = Checkpoint::load(recorded(&format!("{case}.safetensors")), &plan).unwrap();
        assert_eq!(checkpoint.state.steps_taken, STEPS as u64, "{case}");
        let params: Vec<_> = checkpoint.params.iter().flatten().map(|t| t.values.clone()).collect();

        let mut on_gpu = Model::new(&gpu(), &config, &specs, &params, Place::Arena);
        on_gpu.optimizer.load_checkpoint(&checkpoint).unwrap();
        let mut on_cpu = Run::<f32>::new(&config, &specs, &params);
        on_cpu.optimizer.load_state(&checkpoint.state).unwrap();
        // The same file into 16-bit parameters: their masters go where PyTorch's f32 parameters went.
        let storage = StorageConfig { params: Format::Bf16, ..StorageConfig::default() };
        let narrow = OptimizerConfig { storage, ..config.clone() };
        let mut in_bf16 = Model::new(&gpu(), &narrow, &specs, &params, Place::Arena);
        let path = recorded(&format!("{case}.safetensors"));
        let bytes = std::fs::read(path).unwrap();
        let converted = Checkpoint::convert_from_safetensors(&bytes, in_bf16.optimizer.plan()).unwrap();
        in_bf16.optimizer.load_checkpoint(&converted).unwrap();
        // One that forgets the state must come elsewhere, or the test shows nothing.
        let mut forgetful = Run::<f32>::new(&config, &specs, &params);
        for gradients in &gradients {
            on_gpu.step(gradients);
            in_bf16.step(gradients);
            let wrapped: Vec<_> = gradients.iter().cloned().map(Some).collect();
            on_cpu.step(&wrapped);
            forgetful.step(&wrapped);
        }
        let error = |out: &[Vec<f32>]| {
            let one = |t: usize| update_error(&wide(&out[t]), &wide(&after[NAMES[t]].1), &wide(&params[t]));
            (0..NAMES.len()).map(one).fold(0.0, f64::max)
        };
        let masters = in_bf16.optimizer.state_blocking().unwrap().tensors.into_iter().map(|mut tensor| {
            let master = tensor.slots.iter().position(|(name, _)| name == "master").unwrap();
            tensor.slots.swap_remove(master).1
        });
        let outcomes = [("GPU", on_gpu.params()), ("CPU", on_cpu.params.clone()), ("GPU in bf16", masters.collect())];
        for (place, out) in outcomes {
            assert!(error(&out) <= LIMIT, "{case} on the {place}: {:.1e}", error(&out));
        }
        assert!(error(&forgetful.params) > 100.0 * LIMIT, "{case}: {:.1e}", error(&forgetful.params));
    }
    assert_eq!(cases, 13);
}
