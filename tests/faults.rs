//! Faults of the device: each comes back as an error within a finite time, reaches nobody's handler of
//! uncaptured errors, and loses nothing. Lost devices are real; memory that runs out and readbacks that never
//! arrive are injected, since software drivers have neither.

mod support;

use std::time::{Duration, Instant};

use support::model::{Model, Place};
use support::watched::Watched;
use support::{Numbers, encoder};
use wgpu_optim::gpu::{Fault, STEP_ROWS};
use wgpu_optim::rules::AdamW;
use wgpu_optim::wgpu::PollType;
use wgpu_optim::{
    Arena, Checkpoint, EmaConfig, Error, Gpu, HealthConfig, Optimizer, OptimizerConfig, Slice, TensorSpec, rules,
};

/// No call may take longer than this past its timeout.
const SOON: Duration = Duration::from_secs(5);

fn specs() -> Vec<TensorSpec> {
    [3, 4160, 1, 0].iter().enumerate().map(|(i, n)| TensorSpec::new(format!("t{i}"), [*n])).collect()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs().iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

fn config() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0).ema(EmaConfig::default())
}

fn model_on(watched: &Watched) -> Model {
    Model::new(&watched.gpu, &config(), &specs(), &values(1), Place::Arena)
}

/// What `call` does when the first, the second and every later allocation fails, until it needs no more: an error
/// each time, never another one. How many there were.
fn starve<T>(gpu: &Gpu, mut call: impl FnMut() -> wgpu_optim::Result<T>) -> u64 {
    for after in 0.. {
        gpu.inject_fault(Fault::OutOfMemory { after });
        let outcome = call();
        gpu.clear_faults();
        match outcome {
            Ok(_) => return after,
            Err(Error::OutOfMemory { what }) => assert!(what.contains("bytes"), "{what}"),
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!()
}

#[test]
fn memory_that_runs_out_is_an_error_at_every_allocation() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    let mut failed = starve(gpu, || Arena::new(gpu, specs()));
    let arena = support::arena(gpu, &specs(), &values(1));
    failed += starve(gpu, || Optimizer::new(gpu, &config(), arena.tensors().to_vec()));
    assert!(failed > 20, "{failed} allocations");
    println!("reliability: allocations that found no memory while an optimizer was made: {failed}");
    watched.assert_quiet();
}

/// Steps of a model that something has happened to, beside those of one that nothing has.
fn go_on(run: &mut Model, straight: &mut Model, what: &str) {
    for step in 0..2 {
        run.step(&values(50 + step));
        straight.step(&values(50 + step));
    }
    assert_eq!(run.bits(), straight.bits(), "after {what}");
}

/// Every call that allocates, starved, between steps that must not notice.
#[test]
fn a_starved_call_changes_nothing() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    let (mut run, mut straight) = (model_on(&watched), model_on(&watched));
    go_on(&mut run, &mut straight, "nothing");
    let mut failed = vec![
        starve(gpu, || run.optimizer.params_blocking()),
        starve(gpu, || run.optimizer.state_blocking()),
        starve(gpu, || run.optimizer.checkpoint_blocking()),
        starve(gpu, || run.optimizer.record_checkpoint(&mut encoder(gpu))),
        starve(gpu, || run.optimizer.wait_for_report()),
    ];
    go_on(&mut run, &mut straight, "readbacks");

    // A load that writes all there is: rates, a tensor that is behind and so needs a lane of its own.
    let mut other = run.optimizer.checkpoint_blocking().unwrap();
    other.state.steps_taken = 100;
    other.state.tensors[1].steps = 50;
    other.state.rates = {
        let mut changed = model_on(&watched);
        changed.optimizer.set_lr(0.125).unwrap();
        changed.optimizer.state_blocking().unwrap().rates
    };
    other.params.as_mut().unwrap()[0].values[0] = 9.0;
    assert!(other.state.rates.is_some());
    let fail = |run: &mut Model, after| {
        gpu.inject_fault(Fault::OutOfMemory { after });
        let outcome = run.optimizer.load_checkpoint(&other);
        gpu.clear_faults();
        outcome
    };
    let now = run.optimizer.checkpoint_blocking().unwrap();
    let mut after = 0;
    while let Err(error) = fail(&mut run, after) {
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert_eq!(run.optimizer.rates().base(), AdamW::default().lr, "allocation {after} of a load");
        after += 1;
        if after == 1 {
            assert_eq!(run.optimizer.checkpoint_blocking().unwrap(), now);
        }
        go_on(&mut run, &mut straight, &format!("a load without allocation {after}"));
    }
    failed.push(after);
    let expected = {
        let mut fresh = model_on(&watched);
        fresh.optimizer.load_checkpoint(&other).unwrap();
        fresh.step(&values(60));
        fresh.bits()
    };
    run.step(&values(60));
    assert_eq!(run.bits(), expected, "the load that was not starved");

    let (mut run, mut straight) = (model_on(&watched), model_on(&watched));
    let mut starved = 0;
    for after in 0.. {
        gpu.inject_fault(Fault::OutOfMemory { after });
        let outcome = run.optimizer.set_lr(0.5);
        gpu.clear_faults();
        if outcome.is_ok() {
            break;
        }
        starved += 1;
        go_on(&mut run, &mut straight, "a rate that could not be set");
    }
    run.optimizer.set_lr(1e-3).unwrap();
    failed.push(starved);
    go_on(&mut run, &mut straight, "rates");

    failed.push(starve(gpu, || run.optimizer.set_health(Some(HealthConfig::default()))));
    go_on(&mut run, &mut straight, "health");
    // Gradients elsewhere: the step itself has to allocate, once.
    let elsewhere = Arena::new(gpu, specs()).unwrap();
    let places: Vec<Slice> = elsewhere.tensors().iter().map(|t| t.gradient.clone().unwrap()).collect();
    for (t, place) in places.iter().enumerate() {
        run.optimizer.set_gradient(t, Some(place.clone())).unwrap();
    }
    run.gradients = places;
    failed.push(starve(gpu, || run.optimizer.step(&mut encoder(gpu))));
    go_on(&mut run, &mut straight, "gradients elsewhere");
    assert!(failed.iter().all(|n| *n > 0), "{failed:?}");
    println!("reliability: allocations that found no memory in later calls: {}", failed.iter().sum::<u64>());
    watched.assert_quiet();
}

#[test]
fn readbacks_that_never_arrive_time_out() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    let mut run = model_on(&watched);
    run.step(&values(50));
    gpu.set_timeout(Duration::from_millis(100));
    gpu.inject_fault(Fault::StalledReadbacks);
    let timed_out = |what: &str, outcome: wgpu_optim::Result<()>, since: Instant| {
        assert!(matches!(outcome, Err(Error::Timeout { .. })), "{what}: {outcome:?}");
        assert!(since.elapsed() < SOON, "{what} took {:?}", since.elapsed());
    };
    let now = Instant::now;
    let since = now();
    timed_out("params", run.optimizer.params_blocking().map(drop), since);
    let since = now();
    timed_out("params, awaited", pollster::block_on(run.optimizer.params()).map(drop), since);
    let since = now();
    timed_out("state", run.optimizer.state_blocking().map(drop), since);
    let since = now();
    timed_out("a report", run.optimizer.wait_for_report().map(drop), since);
    let since = now();
    timed_out("a checkpoint", run.optimizer.checkpoint_blocking().map(drop), since);
    let since = now();
    let state = run.optimizer.state_blocking();
    timed_out("a load", state.and_then(|s| run.optimizer.load_state(&s)), since);

    println!("reliability: calls whose readback never arrived, ended in time: 6");
    // Steps need no readback until the table of steps to come is used up, and then say so.
    let full = (0..=STEP_ROWS).find_map(|_| run.optimizer.step(&mut encoder(gpu)).err().map(drop));
    assert_eq!(full, None, "dropped encoders need no report");
    let mut recorded = encoder(gpu);
    let full = (0..=STEP_ROWS).find_map(|_| run.optimizer.step(&mut recorded).err());
    assert!(matches!(full, Some(Error::StepTableFull { .. })), "{full:?}");
    drop(recorded);
    assert_eq!(run.optimizer.report().unwrap(), None);

    gpu.clear_faults();
    run.step(&values(51));
    let mut straight = model_on(&watched);
    straight.step(&values(50));
    straight.step(&values(51));
    assert_eq!(run.bits(), straight.bits());
    watched.assert_quiet();
}

/// A device is destroyed in the middle of a run, at each of some moments; what had arrived is saved, and an engine on
/// another device goes on from it to the same bits.
#[test]
fn a_run_survives_the_loss_of_its_device() {
    let straight = Watched::own();
    let mut straight = model_on(&straight);
    (0..8).for_each(|step| straight.step(&values(50 + step)));
    let expected = straight.bits();
    println!(
        "reliability: devices lost in the middle of a run, gone on from a checkpoint on another to the same bits: 8"
    );

    for own in [true, false] {
        for moment in 0..4 {
            let watched = if own { Watched::own() } else { Watched::watch(Gpu::headless().unwrap()) };
            let gpu = &watched.gpu;
            let mut run = model_on(&watched);
            (0..3).for_each(|step| run.step(&values(50 + step)));
            run.write_gradients(&values(53));
            let mut recorded = encoder(gpu);
            run.optimizer.step(&mut recorded).unwrap();
            let mut pending = run.optimizer.record_checkpoint(&mut recorded).unwrap();
            gpu.queue().submit([recorded.finish()]);
            let mut recorded = encoder(gpu);
            match moment {
                // With nothing more under way.
                0 => (),
                // With a step recorded.
                1 => run.optimizer.step(&mut recorded).unwrap(),
                // With a step and a checkpoint recorded.
                _ => {
                    run.optimizer.step(&mut recorded).unwrap();
                    drop(run.optimizer.record_checkpoint(&mut recorded).unwrap());
                }
            }
            gpu.device().poll(PollType::wait_indefinitely()).unwrap();
            let snapshot = pending.try_take().unwrap().expect("a checkpoint that has arrived");
            let mut late = run.optimizer.record_checkpoint(&mut recorded).unwrap();
            if moment == 3 {
                // Mapped by the time of the loss, and not read.
                gpu.queue().submit([std::mem::replace(&mut recorded, encoder(gpu)).finish()]);
                gpu.device().poll(PollType::wait_indefinitely()).unwrap();
            }
            gpu.device().destroy();
            gpu.queue().submit([recorded.finish()]);
            let _ = gpu.device().poll(PollType::Poll);

            let late = late.try_take();
            assert!(matches!(late, Err(Error::DeviceLost(_))), "own {own}, moment {moment}: {late:?}");
            let bytes = snapshot.to_safetensors().unwrap();
            errors_from_then_on(&mut run, gpu);
            drop(run);
            watched.assert_quiet();

            let other = Watched::own();
            let mut second = model_on(&other);
            let plan = second.optimizer.plan();
            let checkpoint = Checkpoint::from_safetensors(&bytes, plan).unwrap();
            second.optimizer.load_checkpoint(&checkpoint).unwrap();
            (4..8).for_each(|step| second.step(&values(50 + step)));
            assert_eq!(second.bits(), expected, "own {own}, moment {moment}");
            other.assert_quiet();
        }
    }
}

fn errors_from_then_on(run: &mut Model, gpu: &Gpu) {
    let since = Instant::now();
    let optimizer = &mut run.optimizer;
    let lost = |what: &str, outcome: wgpu_optim::Result<()>| {
        assert!(matches!(outcome, Err(Error::DeviceLost(_))), "{what}: {outcome:?}");
    };
    lost("a step", optimizer.step(&mut encoder(gpu)));
    lost("a report", optimizer.report().map(drop));
    lost("a report waited for", optimizer.wait_for_report().map(drop));
    lost("params", optimizer.params_blocking().map(drop));
    lost("state", optimizer.state_blocking().map(drop));
    lost("a checkpoint", optimizer.checkpoint_blocking().map(drop));
    lost("a recorded checkpoint", optimizer.record_checkpoint(&mut encoder(gpu)).map(drop));
    lost("a rate", optimizer.set_lr(0.5));
    lost("health", optimizer.set_health(Some(HealthConfig::default())));
    lost("an arena", Arena::new(gpu, specs()).map(drop));
    lost("a write", gpu.write(&optimizer.tensors()[0].params.clone(), &[1.0; 3]));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

#[test]
fn a_step_finds_out_by_itself_that_the_callers_device_is_lost() {
    let watched = Watched::own();
    let gpu = &watched.gpu;
    let mut run = model_on(&watched);
    run.step(&values(50));
    gpu.device().destroy();
    let mut steps = (0..20).map(|_| {
        let mut recorded = encoder(gpu);
        let outcome = run.optimizer.step(&mut recorded);
        gpu.queue().submit([recorded.finish()]);
        outcome
    });
    let error = steps.find_map(Result::err).expect("twenty steps on a lost device");
    assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    watched.assert_quiet();

    let told = Watched::own();
    let mut run = model_on(&told);
    told.gpu.set_lost("the caller's callback says so");
    assert_eq!(
        run.optimizer.step(&mut encoder(&told.gpu)).unwrap_err(),
        Error::DeviceLost("the caller's callback says so".to_owned())
    );
}

/// Whichever call it is that polls: the panic ends there, and from then on the device is lost.
#[test]
fn a_driver_that_fails_while_it_is_polled_is_a_lost_device() {
    type Call = (&'static str, fn(&mut Model) -> wgpu_optim::Result<()>);
    let calls: [Call; 6] = [
        ("a step", |run| run.optimizer.step(&mut encoder(&run.gpu))),
        ("a report", |run| run.optimizer.report().map(drop)),
        ("a report waited for", |run| run.optimizer.wait_for_report().map(drop)),
        ("params", |run| run.optimizer.params_blocking().map(drop)),
        ("params, awaited", |run| pollster::block_on(run.optimizer.params()).map(drop)),
        ("a checkpoint", |run| run.optimizer.checkpoint_blocking().map(drop)),
    ];
    for (what, call) in calls {
        let watched = Watched::own();
        let mut run = model_on(&watched);
        run.step(&values(50));
        let saved = run.optimizer.checkpoint_blocking().unwrap();
        watched.gpu.inject_fault(Fault::PanicInPoll);
        let outcome = call(&mut run);
        assert!(matches!(&outcome, Err(Error::DeviceLost(why)) if why.contains("polled")), "{what}: {outcome:?}");
        // It stays lost, whatever the driver does then.
        watched.gpu.clear_faults();
        errors_from_then_on(&mut run, &watched.gpu);
        assert!(saved.to_safetensors().is_ok());
        watched.assert_quiet();
    }
    // A callback of the caller's that panics looks the same, and its words are kept.
    let watched = Watched::own();
    let mut run = model_on(&watched);
    watched.gpu.queue().on_submitted_work_done(|| panic!("the caller's own"));
    let error = run.optimizer.wait_for_report().unwrap_err().to_string();
    assert!(error.contains("the caller's own"), "{error}");
    println!("reliability: calls in which the driver failed while it was polled, each a lost device: 6");
}

/// Dropping what is under way is no loss.
#[test]
fn an_optimizer_dropped_with_readbacks_under_way_leaves_the_device_as_it_was() {
    let watched = Watched::own();
    for rule in rules::all() {
        let config = OptimizerConfig::from_boxed(rule);
        let mut run = Model::new(&watched.gpu, &config, &specs(), &values(1), Place::Arena);
        run.write_gradients(&values(50));
        run.submit();
        let mut recorded = encoder(&watched.gpu);
        let pending = run.optimizer.record_checkpoint(&mut recorded).unwrap();
        watched.gpu.queue().submit([recorded.finish()]);
        drop(pending);
        drop(run.optimizer.params());
    }
    let mut run = model_on(&watched);
    run.step(&values(50));
    run.optimizer.wait_for_report().unwrap().expect("a report");
    watched.assert_quiet();
}
