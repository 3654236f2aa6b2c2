//! Loads: each tensor by its name, and within memory that is told beforehand, however much there is to write.

mod support;

use std::time::Instant;

use support::model::{Model, PLACES, Place};
use support::watched::Watched;
use support::{Numbers, encoder, submit};
use wgpu_optim::cpu::CpuOptimizer;
use wgpu_optim::gpu::Fault;
use wgpu_optim::rules::{AdamW, ScheduleFreeAdamW};
use wgpu_optim::storage::Format;
use wgpu_optim::verify;
use wgpu_optim::{
    Arena, Checkpoint, EmaConfig, Error, Gpu, Optimizer, OptimizerConfig, Slice, Tensor, TensorParams, TensorSpec,
    rules,
};

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

fn draw(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs.iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

/// Several times what a load writes through where it may take least, with odd ends.
fn long() -> Vec<TensorSpec> {
    [("a", &[7][..]), ("long", &[301, 129]), ("b", &[5, 1000]), ("empty", &[0, 4]), ("c", &[4097])]
        .map(|(name, shape)| TensorSpec::new(name, shape))
        .to_vec()
}

/// A run of three steps, and one that has gone another way.
fn runs(gpu: &Gpu, config: &OptimizerConfig, place: Place) -> [Model; 2] {
    let run = |seed, steps: std::ops::Range<u64>| {
        let mut model = Model::new(gpu, config, &long(), &draw(&long(), seed), place);
        steps.for_each(|step| model.step(&draw(&long(), 100 + step)));
        model
    };
    [run(1, 0..3), run(2, 7..8)]
}

/// The same checkpoint with all that is listed in another order.
fn reordered(checkpoint: &Checkpoint) -> Checkpoint {
    let mut other = checkpoint.clone();
    other.state.tensors.reverse();
    other.state.tensors.iter_mut().for_each(|tensor| tensor.slots.reverse());
    other.params.as_mut().unwrap().rotate_left(2);
    other
}

#[test]
fn the_order_of_a_checkpoint_means_nothing() {
    let watched = Watched::own();
    for (rule, place) in rules::all().into_iter().zip(PLACES.into_iter().cycle()) {
        let name = rule.name();
        let config = OptimizerConfig::from_boxed(rule).ema(EmaConfig::default());
        let [mut run, mut other] = runs(&watched.gpu, &config, place);
        let checkpoint = run.optimizer.checkpoint_blocking().unwrap();
        other.optimizer.load_checkpoint(&reordered(&checkpoint)).unwrap();
        assert_eq!(other.bits(), run.bits(), "{name} {place:?}");
        other.assert_guards();
        for model in [&mut run, &mut other] {
            model.step(&draw(&long(), 200));
        }
        assert_eq!(other.bits(), run.bits(), "{name} {place:?}");

        let mut on_cpu = CpuOptimizer::<f32>::new(&config, &long()).unwrap();
        on_cpu.load_state(&reordered(&checkpoint).state).unwrap();
        assert_eq!(format!("{:?}", on_cpu.state()), format!("{:?}", checkpoint.state), "{name}");
        let reordered = reordered(&checkpoint);
        let params = reordered.params_in_order(on_cpu.plan()).unwrap().unwrap();
        assert!(params.into_iter().eq(checkpoint.params.as_ref().unwrap()), "{name}");
    }
    watched.assert_quiet();
}

/// Tensors of one shape, where nothing but the name tells which is which, and parameters put together by hand.
#[test]
fn equal_shapes_are_not_swapped() {
    let watched = Watched::own();
    let specs = [TensorSpec::new("a", [64]), TensorSpec::new("b", [64])];
    let start = draw(&specs, 1);
    for place in PLACES {
        let mut model = Model::new(&watched.gpu, &adamw(), &specs, &start, place);
        let mut checkpoint = model.optimizer.checkpoint_blocking().unwrap();
        let own = |name: &str, x: f32| TensorParams {
            name: name.to_owned(),
            shape: vec![64],
            format: Format::F32,
            values: vec![x; 64],
        };
        let params = checkpoint.params.as_mut().unwrap();
        params.clear();
        params.push(own("b", 2.0));
        params.push(own("a", 1.0));
        model.optimizer.load_checkpoint(&checkpoint).unwrap();
        assert_eq!(model.params(), [vec![1.0; 64], vec![2.0; 64]], "{place:?}");
        model.assert_guards();
        // Too long for one and too short for the other: nothing is written.
        let params = checkpoint.params.as_mut().unwrap();
        (params[0].values, params[1].values) = (vec![3.0; 70], vec![3.0; 58]);
        assert!(model.optimizer.load_checkpoint(&checkpoint).is_err());
        assert_eq!(model.params(), [vec![1.0; 64], vec![2.0; 64]], "{place:?}");
        model.assert_guards();
    }
    watched.assert_quiet();
}

#[test]
fn a_load_in_parts_is_a_load() {
    let watched = Watched::own();
    watched.gpu.set_spare_memory(0);
    for (storage, place) in
        verify::named_storages().into_iter().flat_map(|(_, s)| PLACES.map(|place| (s.clone(), place)))
    {
        let mut config = adamw().storage(storage.clone());
        config.gradient.accumulate = 2;
        let [run, mut other] = runs(&watched.gpu, &config, place);
        let checkpoint = run.optimizer.checkpoint_blocking().unwrap();
        let told = other.optimizer.load_bytes();
        assert!((1 << 16..1 << 17).contains(&told), "{told}");
        let before = watched.gpu.objects_created();
        other.optimizer.load_checkpoint(&checkpoint).unwrap();
        let after = watched.gpu.objects_created();
        assert_eq!(after.bytes - before.bytes, told, "{storage:?} {place:?}");
        assert_eq!(other.optimizer.checkpoint_blocking().unwrap(), checkpoint, "{storage:?} {place:?}");
        other.assert_guards();
    }
    watched.assert_quiet();
}

/// With an arena the same is told before there is a device.
#[test]
fn the_memory_of_a_load_is_told_before() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    for n in [3u64, 100_000, 3_000_000] {
        let specs = [TensorSpec::new("w", [n]), TensorSpec::new("v", [5])];
        let told = Optimizer::memory(&adamw(), &specs, gpu.limits()).unwrap();
        let mut model = Model::new(gpu, &adamw(), &specs, &draw(&specs, 1), Place::Arena);
        assert_eq!(model.optimizer.load_bytes(), told.load);
        // Most of three million elements with two slots is not there twice.
        assert!(told.load <= (16 << 20) + 1024 && (n < 1000 || told.load < 8 * n + (1 << 19)), "{told:?}");
        let checkpoint = model.optimizer.checkpoint_blocking().unwrap();
        for parameters in [true, false] {
            let before = gpu.objects_created().bytes;
            match parameters {
                true => model.optimizer.load_checkpoint(&checkpoint).unwrap(),
                false => model.optimizer.load_state(&checkpoint.state).unwrap(),
            }
            assert_eq!(gpu.objects_created().bytes - before, told.load, "{n} elements");
        }
        assert_eq!(model.optimizer.checkpoint_blocking().unwrap(), checkpoint);
    }
    watched.assert_quiet();
}

/// A load that ends after any of its parts: nothing goes on before a whole state is there.
#[test]
fn a_load_that_is_interrupted_holds_everything_back() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    gpu.set_spare_memory(0);
    let [mut run, _] = runs(gpu, &adamw().ema(EmaConfig::default()), Place::OneBuffer);
    let checkpoint = run.optimizer.checkpoint_blocking().unwrap();
    run.step(&draw(&long(), 200));
    let expected = run.bits();
    let mut interrupted = 0;
    for after in 0.. {
        let [_, mut model] = runs(gpu, &adamw().ema(EmaConfig::default()), Place::OneBuffer);
        model.write_gradients(&draw(&long(), 200));
        // Recorded before and submitted after: the device skips it.
        let mut early = encoder(gpu);
        model.optimizer.step(&mut early).unwrap();
        gpu.inject_fault(Fault::InterruptedUploads { after });
        let outcome = model.optimizer.load_checkpoint(&checkpoint);
        gpu.clear_faults();
        if outcome.is_ok() {
            break;
        }
        assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
        interrupted += 1;
        gpu.queue().submit([early.finish()]);
        let half = model.params();
        model.optimizer.wait_for_report().unwrap();
        assert_eq!(model.params(), half, "a step went on from half a state");
        let more = Arena::new(gpu, [TensorSpec::new("late", [3])]).unwrap();
        let optimizer = &mut model.optimizer;
        for outcome in [
            optimizer.step(&mut encoder(gpu)),
            optimizer.state_blocking().map(drop),
            optimizer.checkpoint_blocking().map(drop),
            optimizer.record_state(&mut encoder(gpu)).map(drop),
            optimizer.swap_ema(&mut encoder(gpu)),
            optimizer.zero_rows(&mut encoder(gpu), "b", &[0]),
            optimizer.add_tensors(more.tensors().to_vec()),
            optimizer.remove_tensors(&["a"]),
        ] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("load a whole one first"), "{error}");
        }
        optimizer.load_checkpoint(&checkpoint).unwrap();
        assert_eq!(optimizer.checkpoint_blocking().unwrap(), checkpoint);
        model.step(&draw(&long(), 200));
        assert_eq!(model.bits(), expected, "after part {after}");
        model.assert_guards();
    }
    assert!(interrupted > 5, "{interrupted} parts");
    watched.assert_quiet();
}

#[test]
fn an_evaluation_survives_an_interrupted_load() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    gpu.set_spare_memory(0);
    let [run, mut model] = runs(gpu, &OptimizerConfig::new(ScheduleFreeAdamW::default()), Place::Arena);
    let state = run.optimizer.state_blocking().unwrap();
    let training = model.params();
    submit(gpu, |encoder| model.optimizer.begin_evaluation(encoder).unwrap());
    let evaluated = model.params();
    assert_ne!(evaluated, training);
    gpu.inject_fault(Fault::InterruptedUploads { after: 1 });
    assert!(model.optimizer.load_state(&state).is_err());
    gpu.clear_faults();
    assert!(model.optimizer.end_evaluation(&mut encoder(gpu)).is_err());
    assert!(model.optimizer.load_checkpoint(&run.optimizer.checkpoint_blocking().unwrap()).is_err());
    model.optimizer.load_state(&state).unwrap();
    assert_eq!(model.params(), evaluated, "the evaluation goes on");
    submit(gpu, |encoder| model.optimizer.end_evaluation(encoder).unwrap());
    assert_eq!((model.params(), model.optimizer.state_blocking().unwrap()), (training, state));
    watched.assert_quiet();
}

/// A load and its kin with many tensors takes the time of a few times more of each, not of more than that.
#[test]
fn costs_grow_with_the_number_of_tensors_and_no_faster() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    // The best of some runs: others compute beside.
    fn best(mut run: impl FnMut()) -> f64 {
        let time = |_| {
            let since = Instant::now();
            run();
            since.elapsed().as_secs_f64()
        };
        (0..3).map(time).fold(f64::INFINITY, f64::min)
    }
    let times = |count: usize| -> Vec<(&'static str, f64)> {
        let specs: Vec<_> = (0..count).map(|i| TensorSpec::new(format!("block.{i}.weight"), [4])).collect();
        let arena = Arena::new(gpu, specs.clone()).unwrap();
        let mut optimizer = Optimizer::new(gpu, &adamw(), arena.tensors().to_vec()).unwrap();
        let checkpoint = optimizer.checkpoint_blocking().unwrap();
        let mut on_cpu = CpuOptimizer::<f32>::new(&adamw(), &specs).unwrap();
        let state = on_cpu.state();
        let named = || specs.iter().rev().step_by(10);
        vec![
            ("load_checkpoint", best(|| optimizer.load_checkpoint(&checkpoint).unwrap())),
            ("params by name", best(|| named().for_each(|spec| assert!(arena.params(&spec.name).is_ok())))),
            (
                "tensors by name",
                best(|| named().for_each(|spec| assert!(optimizer.tensor_named(&spec.name).is_some()))),
            ),
            ("load_state on the CPU", best(|| on_cpu.load_state(&state).unwrap())),
            (
                "remove_tensors on the CPU",
                best(|| {
                    let names: Vec<_> = named().map(|spec| spec.name.as_str()).collect();
                    on_cpu.clone().remove_tensors(&names).unwrap();
                }),
            ),
        ]
    };
    times(200);
    let (few, many) = (times(3000), times(48_000));
    for ((what, few), (_, many)) in few.into_iter().zip(many) {
        // 16 times as many; what grew with their square would take 256 times as long.
        // What grew with their square would take 256 times as long; others compute beside.
        assert!(many < 100.0 * few.max(1e-5), "{what}: {few:e} s, and {many:e} s for 16 times as many");
    }
    watched.assert_quiet();
}

/// What starts anew reaches the rows that are named: the same objects for a tensor however long it is, and no
/// neighbour is touched.
#[test]
fn zeroed_rows_cost_what_they_are() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    let asked = |rows: u64, named: &[u32]| {
        let size = rows * 12;
        let slice = || Slice::new(&support::model::buffer(gpu, size), 0, size);
        let tensor = Tensor::new("points", [rows, 3], slice()).with_gradient(slice());
        let mut optimizer = Optimizer::new(gpu, &adamw(), [tensor]).unwrap();
        let before = gpu.objects_created();
        let mut encoder = encoder(gpu);
        optimizer.zero_rows(&mut encoder, "points", named).unwrap();
        gpu.queue().submit([encoder.finish()]);
        let after = gpu.objects_created();
        [after.bytes - before.bytes, after.buffers - before.buffers, after.bind_groups - before.bind_groups]
    };
    let one = asked(100, &[7]);
    assert_eq!(one, asked(1_000_000, &[999_999]));
    let spread: Vec<_> = (0..50).map(|i| i * 2).collect();
    assert_eq!(asked(100, &spread), asked(1_000_000, &spread));
    assert!(asked(1_000_000, &spread)[0] < one[0] + 50 * 64);
    watched.assert_quiet();
}
