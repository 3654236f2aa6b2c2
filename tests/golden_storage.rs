//! AdamW in 16 bits with a master against PyTorch's, and with state in 8 bits against bitsandbytes' algorithm:
//! `tests/golden/storage.py`, on the GPU and on the CPU.

mod support;

use safetensors::SafeTensors;
use support::gpu;
use support::model::{Model, Place};
use support::oracle::Run;
use support::{update_error, wide};
use wgpu_optim::rules::AdamW;
use wgpu_optim::{Format, OptimizerConfig, StateFormat, StorageConfig, TensorSpec};

const SIZE: usize = 5000;

struct Golden(Vec<u8>);

impl Golden {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/storage.safetensors");
        Self(std::fs::read(path).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        Format::F32.decode(&self.bytes(name))
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.bytes(name).chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn steps(&self) -> Vec<Vec<f32>> {
        self.f32("gradients").chunks_exact(SIZE).map(<[f32]>::to_vec).collect()
    }
}

fn config(storage: StorageConfig) -> OptimizerConfig {
    OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage)
}

fn specs() -> [TensorSpec; 1] {
    [TensorSpec::new("w", [SIZE as u64])]
}

#[test]
fn masters_are_pytorchs_and_parameters_their_rounding() {
    let golden = Golden::load();
    for (name, format) in [("f16", Format::F16), ("bf16", Format::Bf16)] {
        let storage = StorageConfig { params: format, gradients: format, ..StorageConfig::default() };
        let mut model =
            Model::new(&gpu(), &config(storage.clone()), &specs(), &[golden.f32("params")], Place::OneBuffer);
        let start: Vec<f32> = golden.f32("params").iter().map(|x| format.round(*x)).collect();
        let mut cpu = Run::<f64>::new(&config(storage), &specs(), std::slice::from_ref(&start));
        for gradient in golden.steps() {
            let gradient = gradient.iter().map(|g| g.clamp(-6e4, 6e4)).collect::<Vec<_>>();
            model.step(std::slice::from_ref(&gradient));
            cpu.step(&[Some(wide(&gradient))]);
        }
        let (master, params) = (golden.f64(&format!("{name}.master")), golden.f32(&format!("{name}.params")));
        let state = model.optimizer.state_blocking().unwrap();
        assert_eq!(state.tensors[0].slots[0].0, "master");
        let error = update_error(&wide(&state.tensors[0].slots[0].1), &master, &wide(&start));
        assert!(error < 1e-5, "{name}: {error:e}");
        let error = update_error(&cpu.optimizer.state().tensors[0].slots[0].1, &master, &wide(&start));
        assert!(error < 1e-12, "{name} on the CPU: {error:e}");
        // A master beside a tie may round the other way, by one step.
        let found = model.params().remove(0);
        let others = (0..SIZE).filter(|i| found[*i] != params[*i]).collect::<Vec<_>>();
        assert!(others.len() * 200 < SIZE, "{name}: {} differ", others.len());
        assert!(others.iter().all(|i| format.bits(found[*i]).abs_diff(format.bits(params[*i])) == 1), "{name}");
        assert_eq!(cpu.params[0], wide(&params), "{name}");
    }
}

#[test]
fn eight_bits_are_those_of_bitsandbytes() {
    let golden = Golden::load();
    let storage = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
    let params = golden.f32("params");
    let mut model = Model::new(&gpu(), &config(storage.clone()), &specs(), std::slice::from_ref(&params), Place::Arena);
    let mut cpu = Run::<f64>::new(&config(storage), &specs(), std::slice::from_ref(&params));
    for gradient in golden.steps() {
        model.step(std::slice::from_ref(&gradient));
        cpu.step(&[Some(wide(&gradient))]);
    }
    let on_gpu = model.optimizer.state_blocking().unwrap().tensors.remove(0);
    let on_cpu = cpu.optimizer.state().tensors.remove(0);
    let exact = golden.f64("q8.params");
    for (slot, name) in ["exp_avg", "exp_avg_sq"].into_iter().enumerate() {
        let (codes, scales) = (golden.bytes(&format!("q8.{name}")), golden.f64(&format!("q8.{name}.absmax")));
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<_>>();
        for (place, tensor, values) in [
            ("GPU", &on_gpu.storage[slot], on_gpu.slots[slot].1.clone()),
            ("CPU", &on_cpu.storage[slot], narrow(&on_cpu.slots[slot].1)),
        ] {
            let (found, found_scales) = tensor.codes(&values);
            for (found, exact) in found_scales.iter().zip(&scales) {
                assert!((f64::from(*found) - exact).abs() < 1e-5 * exact, "{place} {name}: scale {found}");
            }
            // What lies beside the bound of two codes may take either, and pass it on to later steps.
            let others: Vec<_> = (0..SIZE).filter(|i| found[*i] != codes[*i]).collect();
            assert!(others.len() * 200 < SIZE, "{place} {name}: {} codes differ", others.len());
            assert!(others.iter().all(|i| found[*i].abs_diff(codes[*i]) == 1), "{place} {name}");
        }
    }
    for (place, found) in [("GPU", wide(&model.params()[0])), ("CPU", cpu.params[0].clone())] {
        let error = update_error(&found, &exact, &wide(&params));
        assert!(error < 1e-3, "{place}: {error:e}");
    }
}
