//! Changes of tensors and of the configuration take bounded memory of the device, give the same bits however much that
//! is, and end whole or say that they did not.

mod support;

use support::model::{Model, Place, buffer};
use support::watched::Watched;
use support::{Numbers, encoder};
use wgpu_optim::gpu::Fault;
use wgpu_optim::rules::AdamW;
use wgpu_optim::wgpu::{DeviceDescriptor, Limits};
use wgpu_optim::{Arena, Error, Gpu, Optimizer, OptimizerConfig, Slice, Tensor, TensorSpec};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A device on which a window of state has at most 512 KiB.
fn limited() -> Watched {
    let required_limits = Limits { max_storage_buffer_binding_size: 512 * KIB, ..Limits::default() };
    let descriptor = DeviceDescriptor { required_limits, ..DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(support::watched::adapter().request_device(&descriptor)).unwrap();
    Watched::watch(Gpu::new(device, queue))
}

/// Of twelve windows and more.
fn specs() -> Vec<TensorSpec> {
    let long = (0..10).map(|i| TensorSpec::new(format!("long{i}"), [600, 101]));
    long.chain([TensorSpec::new("longest", [1500, 100]), TensorSpec::new("short", [7])]).collect()
}

fn draw(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs.iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

fn adamw(amsgrad: bool) -> OptimizerConfig {
    OptimizerConfig::new(AdamW { amsgrad, ..AdamW::default() })
}

fn run(gpu: &Gpu, place: Place) -> Model {
    let mut model = Model::new(gpu, &adamw(false), &specs(), &draw(&specs(), 1), place);
    (0..2).for_each(|step| model.step(&draw(&specs(), 10 + step)));
    model
}

fn own_tensor(gpu: &Gpu, spec: &TensorSpec) -> Tensor {
    let size = spec.elements().unwrap() * 4;
    let slice = || Slice::new(&buffer(gpu, size), 0, size);
    Tensor::new(spec.name.clone(), spec.shape.clone(), slice()).with_gradient(slice())
}

fn reconfigure(model: &mut Model, config: &OptimizerConfig) -> wgpu_optim::Result<()> {
    let tensors = model.optimizer.tensors().to_vec();
    model.optimizer.reconfigure(config, tensors)
}

/// Every kind of change, with steps between them.
fn changed(gpu: &Gpu, place: Place) -> Vec<Vec<u32>> {
    let mut model = run(gpu, place);
    let step = |model: &mut Model, seed: u64| {
        for (t, tensor) in model.optimizer.tensors().to_vec().iter().enumerate() {
            let count = tensor.spec.elements().unwrap() as usize;
            gpu.write(tensor.gradient.as_ref().unwrap(), &Numbers::new(seed + t as u64).take(count)).unwrap();
        }
        model.submit();
    };
    reconfigure(&mut model, &adamw(true)).unwrap();
    step(&mut model, 100);
    model.optimizer.remove_tensors(&["long1", "short"]).unwrap();
    model.optimizer.add_tensors([own_tensor(gpu, &TensorSpec::new("late", [333]))]).unwrap();
    step(&mut model, 200);
    // Longer than a window, and gathered from all of it.
    let rows: Vec<_> = (0..1500u32).map(|r| Some(r.wrapping_mul(2_654_435_761) % 1500)).chain([None; 40]).collect();
    let tensor = own_tensor(gpu, &TensorSpec::new("longest", [1540, 100]));
    model.optimizer.set_rows(tensor, &rows).unwrap();
    reconfigure(&mut model, &adamw(false)).unwrap();
    step(&mut model, 300);
    model.assert_guards();
    model.bits()
}

#[test]
fn changes_give_the_same_bits_however_much_memory_they_may_take() {
    let watched = limited();
    for place in [Place::OneBuffer, Place::Separate, Place::Arena] {
        watched.gpu.set_spare_memory(64 * MIB);
        let expected = changed(&watched.gpu, place);
        for spare in [0, MIB] {
            watched.gpu.set_spare_memory(spare);
            assert!(changed(&watched.gpu, place) == expected, "{place:?}, {spare} bytes");
        }
    }
    watched.assert_quiet();
}

/// The most memory that there is on the device while something is done, what there is before, and after. None where the
/// backend does not tell.
fn memory(gpu: &Gpu, change: impl FnOnce()) -> Option<[u64; 3]> {
    let now = || {
        gpu.device().poll(wgpu_optim::wgpu::PollType::wait_indefinitely()).unwrap();
        gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes)
    };
    let before = now()?;
    gpu.watch_memory();
    change();
    Some([gpu.most_memory()?, before, now()?])
}

/// What an allocation may be longer than what was asked for, over all of a change.
const ROUNDING: u64 = 64 * KIB;

/// All windows are filled anew, with one slot more.
#[test]
fn what_a_change_takes_besides_is_bounded() {
    let watched = limited();
    let gpu = &watched.gpu;
    let told = Optimizer::memory(&adamw(true), &specs(), gpu.limits()).unwrap();
    // As it is by default, all of this state may be there twice.
    assert!(told.change > told.state && told.change < told.state + 3 * told.tables, "{told:?}");
    let change = |spare: u64| {
        gpu.set_spare_memory(spare);
        let mut model = run(gpu, Place::Arena);
        assert!(model.optimizer.layout().state_bytes() > 5 * MIB && model.optimizer.layout().windows.len() > 12);
        memory(gpu, || reconfigure(&mut model, &adamw(true)).unwrap())
    };
    let Some([most, before, after]) = change(64 * MIB) else {
        println!("not measured: this backend does not tell what is allocated");
        return;
    };
    println!("{told:?}: {before} bytes before, {after} after, {most} at most");
    assert!(most <= before.max(after) + told.change + ROUNDING, "{most}, of {before} and {after}: {told:?}");
    // Both states are there at once, which is seen.
    assert!(most > after + told.state / 2);

    // Here it may not.
    let [most, before, after] = change(MIB).unwrap();
    println!("{before} bytes before, {after} after, {most} at most");
    let bound = MIB + told.change - told.state;
    assert!(most <= before.max(after) + bound + ROUNDING, "{most}, of {before} and {after}: {told:?}");
    assert!(bound < told.state / 3 && after > before + told.state / 4);
    watched.assert_quiet();
}

#[test]
fn what_a_load_takes_besides_is_told() {
    let watched = limited();
    let gpu = &watched.gpu;
    let told = Optimizer::memory(&adamw(false), &specs(), gpu.limits()).unwrap();
    for (spare, most_told) in [(64 * MIB, told.load), (MIB, MIB + told.tables)] {
        gpu.set_spare_memory(spare);
        let mut model = run(gpu, Place::Arena);
        let checkpoint = model.optimizer.checkpoint_blocking().unwrap();
        let Some([most, before, after]) = memory(gpu, || model.optimizer.load_checkpoint(&checkpoint).unwrap()) else {
            println!("not measured: this backend does not tell what is allocated");
            return;
        };
        let load = model.optimizer.load_bytes();
        println!("{told:?}, {load}: {before} bytes before, {after} after, {most} at most");
        assert!(load <= most_told, "{load} bytes, {most_told} told beforehand");
        assert!(
            most <= before + load + ROUNDING && after <= before + ROUNDING,
            "{most}, of {before} and {after}: {load}"
        );
        assert!(most + ROUNDING > before + load, "{most}, of {before}: {load} told");
    }
    watched.assert_quiet();
}

/// What stays as it is keeps its memory: a tensor that joins or goes asks for tables, and for its own state.
#[test]
fn a_tensor_that_joins_costs_its_own_state() {
    let watched = limited();
    let gpu = &watched.gpu;
    for place in [Place::Separate, Place::OneBuffer, Place::Arena] {
        let mut model = run(gpu, place);
        let (state, before) = (model.optimizer.layout().state_bytes(), gpu.objects_created().bytes);
        let late = own_tensor(gpu, &TensorSpec::new("late", [333]));
        model.optimizer.add_tensors([late]).unwrap();
        let asked = gpu.objects_created().bytes - before;
        let tables = Optimizer::memory(&adamw(false), &specs(), gpu.limits()).unwrap().tables;
        assert!(asked < 2 * tables + MIB / 2 && asked < state / 2, "{place:?}: {asked} bytes, of {state}");
        let before = gpu.objects_created().bytes;
        model.optimizer.remove_tensors(&["late"]).unwrap();
        let asked = gpu.objects_created().bytes - before;
        assert!(asked < 2 * tables + MIB / 2, "{place:?}: {asked} bytes, of {state}");
    }
    watched.assert_quiet();
}

/// Without memory at any moment: as it was before, or a run that goes on from a whole state only.
#[test]
fn a_starved_change_leaves_a_whole_state_or_says_so() {
    let watched = limited();
    let gpu = &watched.gpu;
    gpu.set_spare_memory(0);
    let mut straight = run(gpu, Place::OneBuffer);
    let checkpoint = straight.optimizer.checkpoint_blocking().unwrap();
    let before = straight.bits();
    straight.step(&draw(&specs(), 50));
    let expected = straight.bits();
    let mut model = run(gpu, Place::OneBuffer);
    let (mut unchanged, mut half) = (0, 0);
    for after in 0.. {
        gpu.inject_fault(Fault::OutOfMemory { after });
        let outcome = reconfigure(&mut model, &adamw(true));
        gpu.clear_faults();
        match outcome {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::OutOfMemory { .. }), "{error}"),
        }
        match model.optimizer.step(&mut encoder(gpu)) {
            Ok(()) => unchanged += 1,
            Err(error) => {
                assert!(error.to_string().contains("load a whole one first"), "{error}");
                assert!(model.optimizer.state_blocking().is_err() && model.optimizer.checkpoint_blocking().is_err());
                let late = Arena::new(gpu, [TensorSpec::new("late", [3])]).unwrap();
                assert!(model.optimizer.add_tensors(late.tensors().to_vec()).is_err());
                half += 1;
                model.optimizer.load_checkpoint(&checkpoint).unwrap();
            }
        }
        assert!(model.bits() == before, "allocation {after}");
    }
    // The memory is asked for before anything is given up, so that it is rare.
    assert!(unchanged > 20 && half > 3, "{unchanged} and {half}");
    println!("{unchanged} changes without memory left all as it was, {half} needed a load");

    // And it goes on as if nothing had been.
    let mut model = run(gpu, Place::OneBuffer);
    for after in [unchanged, unchanged + 1] {
        gpu.inject_fault(Fault::OutOfMemory { after });
        assert!(reconfigure(&mut model, &adamw(true)).is_err());
        gpu.clear_faults();
        model.optimizer.load_checkpoint(&checkpoint).unwrap();
    }
    model.step(&draw(&specs(), 50));
    assert!(model.bits() == expected);
    watched.assert_quiet();
}
