//! Rows of tensors in narrow storage: what is moved keeps its bits, what lies beside it too.

mod support;

use support::model::{Model, PLACES, Packed, Place};
use support::oracle::Run;
use support::{Numbers, gpu, submit};
use wgpu_optim::rules::{Adagrad, AdamW};
use wgpu_optim::verify;
use wgpu_optim::{
    Format, Gpu, OptimizerConfig, OptimizerState, Rounding, StateFormat, StorageConfig, Tensor, TensorSpec,
    TensorState, wgpu,
};

/// Rows of 3 elements share words and scales, those of 256 nothing. Both tensors are long enough for 8 bits.
fn specs() -> Vec<TensorSpec> {
    [("a", &[7][..]), ("points", &[1501, 3]), ("table", &[24, 256])]
        .map(|(name, shape)| TensorSpec::new(name, shape))
        .to_vec()
}

fn draw(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs.iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

fn adamw(storage: &StorageConfig) -> OptimizerConfig {
    OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() }).storage(storage.clone())
}

fn all_in(format: Format, state: StateFormat) -> StorageConfig {
    let rounding = if format == Format::Bf16 { Rounding::Stochastic } else { Rounding::Nearest };
    StorageConfig { params: format, gradients: format, state, rounding, ..StorageConfig::default() }
}

/// An optimizer on the GPU and one on the CPU with the same state, after some steps.
struct Both {
    model: Model,
    cpu: Run<f32>,
    config: OptimizerConfig,
    specs: Vec<TensorSpec>,
    /// Memory of tensors whose rows have moved.
    moved: Vec<Packed>,
}

fn rows_of<T: Copy>(old: &[T], rows: &[Option<u32>], width: usize, fresh: T) -> Vec<T> {
    let row = |r: &Option<u32>| r.map_or(vec![fresh; width], |r| old[r as usize * width..][..width].to_vec());
    rows.iter().flat_map(row).collect()
}

impl Both {
    fn new(gpu: &Gpu, config: &OptimizerConfig, specs: &[TensorSpec], place: Place) -> Self {
        let mut model = Model::new(gpu, config, specs, &draw(specs, 1), place);
        (0..3).for_each(|step| model.step(&draw(specs, 100 + step)));
        let params = model.params();
        let mut cpu = Run::new(config, specs, &params);
        cpu.optimizer.load_state(&model.optimizer.state_blocking().unwrap()).unwrap();
        Self { model, cpu, config: config.clone(), specs: specs.to_vec(), moved: Vec::new() }
    }

    fn state(&self) -> OptimizerState {
        self.model.optimizer.state_blocking().unwrap()
    }

    /// What the rows of a tensor must become: the same numbers elsewhere, and what slots start from.
    fn expected(&self, place: usize, rows: &[Option<u32>]) -> (Vec<f32>, TensorState) {
        let width = self.specs[place].shape[1..].iter().product::<u64>() as usize;
        let mut state = self.state().tensors.swap_remove(place);
        state.shape[0] = rows.len() as u64;
        let starts = self.config.rule.slots();
        for (name, values) in &mut state.slots {
            let start = starts.iter().find(|slot| slot.name == name).map_or(0.0, |slot| slot.initial as f32);
            let in_bf16 = state.storage.iter().any(|s| s.slot == *name && s.format == StateFormat::Bf16);
            let start = if in_bf16 { Format::Bf16.round(start) } else { start };
            *values = rows_of(values, rows, width, start);
        }
        for storage in state.storage.iter_mut().filter(|storage| storage.format == StateFormat::Q8) {
            let start = starts.iter().find(|slot| slot.name == storage.slot).unwrap().initial as f32;
            storage.scales = rows_of(&storage.scales, rows, width / 256, start);
        }
        (rows_of(&self.model.params()[place], rows, width, 0.0), state)
    }

    fn set_rows(&mut self, name: &str, rows: &[Option<u32>], what: &str) {
        let place = self.specs.iter().position(|s| s.name == name).unwrap();
        let expected = self.expected(place, rows);
        let before = self.others(place);
        self.specs[place].shape[0] = rows.len() as u64;
        let [params, gradients] = self.model.optimizer.plan().formats_of(place).map(Format::bytes);
        let elements = self.specs[place].elements().unwrap();
        // Poisoned between guards: every number must be written, and nothing else.
        let packed = Packed::of_bytes(&self.model.gpu, &[(elements * params, 1), (elements * gradients, 3)]);
        let tensor = Tensor::new(name, self.specs[place].shape.clone(), packed.slice(0)).with_gradient(packed.slice(1));
        self.model.optimizer.set_rows(tensor, rows).unwrap();
        self.model.gradients[place] = packed.slice(1);
        self.moved.push(packed);
        self.cpu.optimizer.set_rows(name, rows).unwrap();
        self.check(place, &expected, &before, what);
    }

    fn zero_rows(&mut self, name: &str, rows: &[u32], what: &str) {
        let place = self.specs.iter().position(|s| s.name == name).unwrap();
        let count = self.specs[place].shape[0] as u32;
        let kept: Vec<_> = (0..count).map(|row| Some(row).filter(|row| !rows.contains(row))).collect();
        let (expected, before) = (self.expected(place, &kept), self.others(place));
        let optimizer = &mut self.model.optimizer;
        submit(&self.model.gpu, |encoder| optimizer.zero_rows(encoder, name, rows).unwrap());
        self.cpu.optimizer.zero_rows(name, rows).unwrap();
        self.check(place, &expected, &before, what);
    }

    /// All that belongs to other tensors.
    fn others(&self, place: usize) -> (Vec<Vec<f32>>, Vec<TensorState>) {
        let (mut params, mut state) = (self.model.params(), self.state());
        params.remove(place);
        state.tensors.remove(place);
        (params, state.tensors)
    }

    fn check(
        &self,
        place: usize,
        expected: &(Vec<f32>, TensorState),
        others: &(Vec<Vec<f32>>, Vec<TensorState>),
        what: &str,
    ) {
        assert!(self.model.params()[place] == expected.0, "{what}: parameters");
        let found = self.state().tensors.swap_remove(place);
        for ((name, found), (_, expected)) in found.slots.iter().zip(&expected.1.slots) {
            assert!(found == expected, "{what}: {name}");
        }
        assert!(found == expected.1, "{what}: scales or counts");
        assert!(&self.others(place) == others, "{what}: others must not notice");
        assert!(self.cpu.optimizer.state().tensors == self.state().tensors, "{what}: the CPU");
        self.model.assert_guards();
        for packed in &self.moved {
            assert_eq!(packed.broken_guards(&self.model.gpu), Vec::<usize>::new(), "{what}: guards");
        }
    }

    /// Goes on as one does that was made with these tensors from the start.
    fn goes_on(&mut self, what: &str) {
        let checkpoint = self.model.optimizer.checkpoint_blocking().unwrap();
        let specs = &self.specs;
        let mut fresh = Model::new(&self.model.gpu, &self.config, specs, &draw(specs, 7), Place::Arena);
        fresh.optimizer.load_checkpoint(&checkpoint).unwrap();
        for step in 0..2 {
            let gradients = draw(specs, 200 + step);
            self.model.step(&gradients);
            fresh.step(&gradients);
        }
        assert!(self.model.bits() == fresh.bits(), "{what}: steps after");
    }
}

#[test]
fn rows_keep_their_bits_in_every_storage() {
    for (storage, place) in verify::storages().into_iter().zip(PLACES.into_iter().cycle()) {
        let mut both = Both::new(&gpu(), &adamw(&storage), &specs(), place);
        let what = format!("{storage:?} {place:?}");
        if storage.state != StateFormat::Q8 {
            // Dropped, repeated, reversed and appended, of an odd number of elements.
            let rows = (0..1501).rev().filter(|r| r % 3 != 0).chain([7, 7, 8]).map(Some).chain([None; 4]);
            both.set_rows("points", &rows.collect::<Vec<_>>(), &format!("{what}: points"));
            both.zero_rows("points", &[0, 1, 5, 1006], &format!("{what}: zeroed points"));
        }
        let rows: Vec<_> = (0..24).rev().filter(|r| r % 5 != 0).chain([3, 3]).map(Some).chain([None; 3]).collect();
        both.set_rows("table", &rows, &format!("{what}: table"));
        both.zero_rows("table", &[1, 20], &format!("{what}: zeroed table"));
        both.goes_on(&what);
    }
}

#[test]
fn slots_of_new_rows_start_as_their_rule_says_in_every_storage() {
    for storage in verify::storages() {
        let rule = Adagrad { initial_accumulator_value: 0.3, ..Adagrad::default() };
        let config = OptimizerConfig::new(rule).storage(storage.clone());
        let mut both = Both::new(&gpu(), &config, &specs(), Place::Separate);
        let rows: Vec<_> = (0..20).map(Some).chain([None; 2]).collect();
        both.set_rows("table", &rows, &format!("{storage:?}: new"));
        both.zero_rows("table", &[0], &format!("{storage:?}: zeroed"));
    }
}

/// A word can take its halves from two windows.
#[test]
fn narrow_rows_move_between_windows() {
    let adapter = pollster::block_on(wgpu_optim::gpu::adapters()).into_iter().next().expect("an adapter");
    let required_limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 18, ..wgpu::Limits::default() };
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    device.on_uncaptured_error(std::sync::Arc::new(|error| panic!("{error}")));
    let gpu = Gpu::new(device, queue);
    let cases = [
        (all_in(Format::Bf16, StateFormat::Bf16), [60_001u64, 7]),
        (all_in(Format::F16, StateFormat::F32), [60_001, 7]),
        (all_in(Format::Bf16, StateFormat::Q8), [1600, 256]),
    ];
    for (storage, shape) in cases {
        let specs = [TensorSpec::new("b", [5]), TensorSpec::new("long", shape)];
        let mut both = Both::new(&gpu, &adamw(&storage), &specs, Place::OneBuffer);
        assert!(both.model.optimizer.layout().windows.len() >= 4, "{storage:?}");
        let count = shape[0] as u32;
        let rows = (0..count).map(|r| Some(r.wrapping_mul(2_654_435_761) % count)).chain([None; 11]);
        both.set_rows("long", &rows.collect::<Vec<_>>(), &format!("{storage:?}: gathered"));
        both.zero_rows("long", &[0, 799, 1608], &format!("{storage:?}: zeroed"));
        both.goes_on(&format!("{storage:?}"));
    }
}

#[test]
fn rows_that_share_a_scale_are_refused_by_name() {
    let storage = all_in(Format::Bf16, StateFormat::Q8);
    let mut both = Both::new(&gpu(), &adamw(&storage), &specs(), Place::Arena);
    let before = both.model.bits();
    let tensor = |both: &Both, name: &str, shape: [u64; 2]| {
        let place = both.specs.iter().position(|s| s.name == name).unwrap();
        let [params, gradients] =
            both.model.optimizer.plan().formats_of(place).map(|f| shape[0] * shape[1] * f.bytes());
        let packed = Packed::of_bytes(&both.model.gpu, &[(params, 0), (gradients, 0)]);
        Tensor::new(name, shape, packed.slice(0)).with_gradient(packed.slice(1))
    };
    let points = tensor(&both, "points", [1501, 3]);
    let rows: Vec<_> = (0..1501).map(Some).collect();
    let error = both.model.optimizer.set_rows(points, &rows).unwrap_err().to_string();
    assert!(error.contains("\"points\"") && error.contains("256 elements share a scale"), "{error}");
    assert_eq!(both.cpu.optimizer.set_rows("points", &rows).unwrap_err().to_string(), error);
    let mut encoder = support::encoder(&both.model.gpu);
    assert_eq!(both.model.optimizer.zero_rows(&mut encoder, "points", &[0]).unwrap_err().to_string(), error);
    assert_eq!(both.cpu.optimizer.zero_rows("points", &[0]).unwrap_err().to_string(), error);
    // Below 4,096 elements state is f32.
    let table = tensor(&both, "table", [15, 256]);
    let error = both.model.optimizer.set_rows(table, &[Some(0); 15]).unwrap_err().to_string();
    assert!(error.contains("\"table\"") && error.contains("cannot become"), "{error}");
    assert_eq!(both.cpu.optimizer.set_rows("table", &[Some(0); 15]).unwrap_err().to_string(), error);
    assert_eq!(both.model.bits(), before);
}
