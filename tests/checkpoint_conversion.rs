//! Checkpoints in another storage than the run's: refused, or converted where that is asked for.

mod support;

use support::model::{Model, Place};
use support::oracle::Run;
use support::{Numbers, gpu};
use wgpu_optim::rules::AdamW;
use wgpu_optim::storage::{Format, Q8_BLOCK, StateFormat, StorageConfig, q8_codes, q8_values};
use wgpu_optim::verify;
use wgpu_optim::{Checkpoint, Error, OptimizerConfig, TensorSpec, TensorState};

/// The first is too small for 8 bits.
fn specs() -> Vec<TensorSpec> {
    [257u64, 4096, 5001].map(|n| TensorSpec::new(format!("t{n}"), [n])).into()
}

fn values(seed: u64, scale: f32) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    let mut one = |s: &TensorSpec| numbers.take(s.elements().unwrap() as usize).iter().map(|x| x * scale).collect();
    specs().iter().map(&mut one).collect()
}

fn config(storage: &StorageConfig) -> OptimizerConfig {
    OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage.clone())
}

fn model(storage: &StorageConfig, seed: u64) -> Model {
    Model::new(&gpu(), &config(storage), &specs(), &values(seed, 0.1), Place::OneBuffer)
}

fn run(storage: &StorageConfig) -> Model {
    let mut model = model(storage, 1);
    (0..3).for_each(|step| model.step(&values(100 + step, 1.0)));
    model
}

fn bytes(model: &Model) -> Vec<u8> {
    model.optimizer.checkpoint_blocking().unwrap().to_safetensors().unwrap()
}

fn slot<'a>(tensor: &'a TensorState, name: &str) -> Option<&'a [f32]> {
    tensor.slots.iter().find(|(n, _)| n == name).map(|(_, values)| values.as_slice())
}

/// Values as a slot of that format holds them.
fn held(format: StateFormat, values: &[f32], signed: bool) -> Vec<f32> {
    match format {
        StateFormat::F32 => values.to_vec(),
        StateFormat::Bf16 => values.iter().map(|x| Format::Bf16.round(*x)).collect(),
        StateFormat::Q8 => {
            let one = |values: &[f32]| {
                let mut codes = vec![0; values.len()];
                let scale = q8_codes(values, signed, None, &mut codes);
                q8_values(&codes, scale, signed).collect::<Vec<_>>()
            };
            values.chunks(Q8_BLOCK as usize).flat_map(one).collect()
        }
    }
}

/// What PyTorch's optimizers leave is in f32 and knows no storage, as this is: `scripts/torch_state.py` writes it so.
#[test]
fn an_f32_checkpoint_takes_any_storage_when_asked() {
    let from = run(&StorageConfig::default());
    let file = bytes(&from);
    let (params, state) = (from.params(), from.optimizer.state_blocking().unwrap());
    for storage in verify::storages().into_iter().skip(1) {
        let mut to = model(&storage, 2);
        to.step(&values(50, 1.0));
        let refused = Checkpoint::from_safetensors(&file, to.optimizer.plan());
        assert_eq!(refused.is_ok(), storage.params == Format::F32 && storage.state == StateFormat::F32, "{storage:?}");
        if let Err(error) = refused {
            assert!(matches!(&error, Error::State(told) if told.contains("has dtype F32, expected")), "{error}");
        }

        let converted = Checkpoint::convert_from_safetensors(&file, to.optimizer.plan()).unwrap();
        to.optimizer.load_checkpoint(&converted).unwrap();
        let mut on_cpu = Run::<f32>::new(&config(&storage), &specs(), &params);
        on_cpu.optimizer.load_state(&converted.state).unwrap();

        let found = to.optimizer.state_blocking().unwrap();
        assert_eq!(found.steps_taken, 3);
        assert_eq!(found.tensors, on_cpu.optimizer.state().tensors, "{storage:?}");
        let masters = found.tensors.iter().filter(|tensor| slot(tensor, "master").is_some()).count();
        assert_eq!(masters, if to.optimizer.plan().variant_of(0).storage.master { 3 } else { 0 });
        for (t, values) in params.iter().enumerate() {
            let rounded: Vec<_> = values.iter().map(|x| storage.params.round(*x)).collect();
            assert_eq!(to.params()[t], rounded, "{storage:?}");
            if let Some(master) = slot(&found.tensors[t], "master") {
                assert_eq!(master, values, "a master has all digits");
            }
            for (name, signed) in [("exp_avg", true), ("exp_avg_sq", false)] {
                let format = match storage.state {
                    StateFormat::Q8 if values.len() < 4096 => StateFormat::F32,
                    format => format,
                };
                let expected = held(format, slot(&state.tensors[t], name).unwrap(), signed);
                assert_eq!(slot(&found.tensors[t], name).unwrap(), expected, "{name} {storage:?}");
            }
        }
        // It goes on.
        to.step(&values(103, 1.0));
        assert_eq!(to.optimizer.state_blocking().unwrap().steps_taken, 4);
        to.assert_guards();
    }
}

#[test]
fn any_storage_becomes_f32_when_asked() {
    for storage in verify::storages().into_iter().skip(1) {
        let from = run(&storage);
        let file = bytes(&from);
        let mut to = model(&StorageConfig::default(), 2);
        let converted = Checkpoint::convert_from_safetensors(&file, to.optimizer.plan()).unwrap();
        to.optimizer.load_checkpoint(&converted).unwrap();
        let (state, found) = (from.optimizer.state_blocking().unwrap(), to.optimizer.state_blocking().unwrap());
        for (t, stored) in from.params().into_iter().enumerate() {
            let own = slot(&state.tensors[t], "master").unwrap_or(&stored);
            assert_eq!(to.params()[t], own, "{storage:?}: parameters are their master where there is one");
            for name in ["exp_avg", "exp_avg_sq"] {
                assert_eq!(slot(&found.tensors[t], name), slot(&state.tensors[t], name), "{name} {storage:?}");
            }
            assert!(found.tensors[t].storage.is_empty() && slot(&found.tensors[t], "master").is_none());
        }
    }
}

/// The same storage loses nothing by it: codes and scales are taken as they are.
#[test]
fn conversion_to_the_same_storage_changes_no_bit() {
    for storage in verify::storages() {
        let from = run(&storage);
        let mut to = model(&storage, 2);
        let converted = Checkpoint::convert_from_safetensors(&bytes(&from), to.optimizer.plan()).unwrap();
        assert_eq!(converted, from.optimizer.checkpoint_blocking().unwrap(), "{storage:?}");
        to.optimizer.load_checkpoint(&converted).unwrap();
        assert_eq!(to.bits(), from.bits(), "{storage:?}");
    }
}

/// A fuzzer's find: a scale below zero turned signs around, and came out as another when it was saved again.
#[test]
fn a_scale_below_zero_is_refused() {
    let storage = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
    let mut checkpoint = run(&storage).optimizer.checkpoint_blocking().unwrap();
    let plan = wgpu_optim::plan::Plan::new(&config(&storage), &specs()).unwrap();
    let scales = &mut checkpoint.state.tensors[1].storage[0].scales;
    scales[3] = -scales[3];
    let error = Checkpoint::from_safetensors(&checkpoint.to_safetensors().unwrap(), &plan).unwrap_err().to_string();
    assert!(error.contains("t4096.exp_avg.absmax") && error.contains("must not be below zero"), "{error}");
}

#[test]
fn what_does_not_fit_is_told_also_when_converting() {
    let file = bytes(&run(&StorageConfig::default()));
    let storage = StorageConfig { params: Format::Bf16, ..StorageConfig::default() };
    let mut others = specs();
    others[1] = TensorSpec::new("t4096", [64, 65]);
    let plan = wgpu_optim::plan::Plan::new(&config(&storage), &others).unwrap();
    let error = Checkpoint::convert_from_safetensors(&file, &plan).unwrap_err();
    assert!(matches!(&error, Error::State(told) if told.contains("has shape [4096], expected [64, 65]")), "{error}");
}
