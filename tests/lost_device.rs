//! A device of the caller's that is lost, and nobody says so: whichever call comes first finds out.

mod support;

use std::time::Duration;

use support::encoder;
use support::model::{Model, Place, buffer};
use support::watched::Watched;
use wgpu_optim::rules::ScheduleFreeAdamW;
use wgpu_optim::wgpu::PollType;
use wgpu_optim::{
    Arena, EmaConfig, Error, HealthConfig, Optimizer, OptimizerConfig, Result, Slice, Tensor, TensorSpec,
};

fn specs() -> [TensorSpec; 2] {
    [TensorSpec::new("a", [3, 2]), TensorSpec::new("b", [4160])]
}

fn model(watched: &Watched) -> Model {
    let config = OptimizerConfig::new(ScheduleFreeAdamW::default()).clip_global_norm(1.0).ema(EmaConfig::default());
    let params = [vec![1.0; 6], vec![1.0; 4160]];
    let mut model = Model::new(&watched.gpu, &config, &specs(), &params, Place::Arena);
    // What is made for the first of each call is there by then.
    model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
    support::submit(&watched.gpu, |encoder| {
        model.optimizer.swap_ema(encoder).unwrap();
        model.optimizer.swap_ema(encoder).unwrap();
        model.optimizer.begin_evaluation(encoder).unwrap();
        model.optimizer.end_evaluation(encoder).unwrap();
        model.optimizer.zero_rows(encoder, "a", &[1]).unwrap();
    });
    model.write_gradients(&params);
    model.submit();
    model
}

fn other_tensor(model: &Model) -> Tensor {
    Tensor::new("c", [4], &buffer(&model.gpu, 16))
}

type Call = (&'static str, fn(&mut Model) -> Result<()>);

/// All that need the device and can come at any time.
const CALLS: [Call; 25] = [
    ("step", |m| m.optimizer.step(&mut encoder(&m.gpu))),
    ("report", |m| m.optimizer.report().map(drop)),
    ("wait_for_report", |m| m.optimizer.wait_for_report().map(drop)),
    ("health", |m| m.optimizer.health().map(drop)),
    ("set_health", |m| m.optimizer.set_health(Some(HealthConfig::default()))),
    ("set_zero_gradients", |m| m.optimizer.set_zero_gradients(true)),
    ("params_blocking", |m| m.optimizer.params_blocking().map(drop)),
    ("params", |m| pollster::block_on(m.optimizer.params()).map(drop)),
    ("state_blocking", |m| m.optimizer.state_blocking().map(drop)),
    ("checkpoint_blocking", |m| m.optimizer.checkpoint_blocking().map(drop)),
    ("checkpoint", |m| pollster::block_on(m.optimizer.checkpoint()).map(drop)),
    ("record_checkpoint", |m| m.optimizer.record_checkpoint(&mut encoder(&m.gpu)).map(drop)),
    ("record_state", |m| m.optimizer.record_state(&mut encoder(&m.gpu)).map(drop)),
    ("swap_ema", |m| m.optimizer.swap_ema(&mut encoder(&m.gpu))),
    ("begin_evaluation", |m| m.optimizer.begin_evaluation(&mut encoder(&m.gpu))),
    ("zero_rows", |m| m.optimizer.zero_rows(&mut encoder(&m.gpu), "a", &[0])),
    ("set_lr", |m| m.optimizer.set_lr(0.5)),
    ("add_tensors", |m| m.optimizer.add_tensors([other_tensor(m)])),
    ("remove_tensors", |m| m.optimizer.remove_tensors(&["b"])),
    ("reconfigure", |m| {
        let tensors = m.optimizer.tensors().to_vec();
        m.optimizer.reconfigure(&OptimizerConfig::new(ScheduleFreeAdamW::default()), tensors)
    }),
    ("set_rows", |m| {
        let tensor = Tensor::new("a", [1, 2], &buffer(&m.gpu, 8));
        m.optimizer.set_rows(tensor, &[Some(1)])
    }),
    ("Arena::new", |m| Arena::new(&m.gpu, specs()).map(drop)),
    ("Optimizer::new", |m| {
        let config = OptimizerConfig::new(ScheduleFreeAdamW::default());
        Optimizer::new(&m.gpu, &config, [other_tensor(m)]).map(drop)
    }),
    ("write", |m| m.gpu.write(&m.optimizer.tensors()[0].params.clone(), &[1.0; 6])),
    ("a gradient elsewhere", |m| {
        m.optimizer.set_gradient(1, Some(Slice::from(&buffer(&m.gpu, 4 * 4160))))?;
        m.optimizer.step(&mut encoder(&m.gpu))
    }),
];

fn assert_lost(what: &str, outcome: Result<()>) {
    assert!(matches!(outcome, Err(Error::DeviceLost(_))), "{what}: {outcome:?}");
}

#[test]
fn every_call_finds_out_by_itself() {
    for (what, call) in CALLS {
        // With work under way and unpolled, and with nothing to do.
        for idle in [false, true] {
            let watched = Watched::own();
            let mut model = model(&watched);
            if idle {
                watched.gpu.device().poll(PollType::wait_indefinitely()).unwrap();
            }
            watched.gpu.device().destroy();
            assert_lost(&format!("{what}, idle {idle}"), call(&mut model));
            assert_lost(&format!("{what} again, idle {idle}"), call(&mut model));
            drop(model);
            watched.assert_quiet();
        }
    }
}

/// A checkpoint that was under way: recorded only, submitted, there and not read.
#[test]
fn a_pending_checkpoint_finds_out_by_itself() {
    for moment in 0..4 {
        for how in 0..3 {
            let watched = Watched::own();
            let model = model(&watched);
            let mut recorded = encoder(&watched.gpu);
            let mut pending = model.optimizer.record_checkpoint(&mut recorded).unwrap();
            if moment < 2 {
                watched.gpu.device().destroy();
                // Refused, or never submitted.
                if moment == 0 {
                    watched.gpu.queue().submit([recorded.finish()]);
                } else {
                    drop(recorded);
                }
            } else {
                watched.gpu.queue().submit([recorded.finish()]);
                watched.gpu.device().poll(PollType::wait_indefinitely()).unwrap();
                watched.gpu.device().destroy();
                if moment == 3 {
                    // The device has let its memory go.
                    let _ = watched.gpu.device().poll(PollType::Poll);
                }
            }
            let outcome = match how {
                0 => pending.try_take().map(drop),
                1 => pending.wait().map(drop),
                _ => pollster::block_on(pending).map(drop),
            };
            // What has arrived can still be read as long as the device has not let it go.
            if moment == 2 && outcome.is_ok() {
                continue;
            }
            assert_lost(&format!("moment {moment}, way {how}"), outcome);
            watched.assert_quiet();
        }
    }
}

/// Nor is a device that is well taken for a lost one, whatever fails on it.
#[test]
fn other_failures_are_no_loss() {
    let watched = Watched::own();
    let mut model = model(&watched);
    let gone = buffer(&watched.gpu, 4 * 4160);
    model.optimizer.set_gradient(1, Some(Slice::from(&gone))).unwrap();
    gone.destroy();
    let error = model.optimizer.step(&mut encoder(&watched.gpu)).unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error}");
    let mut dropped = encoder(&watched.gpu);
    let pending = model.optimizer.record_checkpoint(&mut dropped).unwrap();
    drop(dropped);
    let error = pending.wait().unwrap_err();
    assert!(matches!(error, Error::Device { .. }), "{error}");
    watched.gpu.set_timeout(Duration::from_secs(60));
    model.optimizer.set_gradient(1, Some(model.gradients[1].clone())).unwrap();
    std::thread::scope(|scope| {
        // Many threads ask at the same time.
        for _ in 0..4 {
            let gpu = watched.gpu.clone();
            scope.spawn(move || (0..200).for_each(|_| drop(Arena::new(&gpu, [TensorSpec::new("t", [1])]).unwrap())));
        }
        (0..50).for_each(|_| model.submit());
    });
    model.optimizer.wait_for_report().unwrap().expect("a report");
    watched.assert_quiet();
}
