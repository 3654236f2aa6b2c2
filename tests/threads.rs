//! Several optimizers, several devices, several threads: results are those of one after the other.

mod support;

use std::sync::{Arc, Barrier};

use support::model::{Model, Place};
use support::{Numbers, gpu, own_gpu};
use wgpu_optim::gpu::PendingCheckpoint;
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{Arena, Checkpoint, Gpu, Optimizer, OptimizerConfig, TensorSpec};

const STEPS: u64 = 40;

fn specs() -> Vec<TensorSpec> {
    [5, 4099, 70].iter().enumerate().map(|(i, n)| TensorSpec::new(format!("t{i}"), [*n])).collect()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs().iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

fn config(index: u64) -> OptimizerConfig {
    match index % 2 {
        0 => OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0),
        _ => OptimizerConfig::new(Sgd { momentum: 0.9, ..Sgd::default() }),
    }
}

fn run(gpu: &Gpu, index: u64) -> Vec<Vec<u32>> {
    let mut model = Model::new(gpu, &config(index), &specs(), &values(index), Place::Arena);
    for step in 0..STEPS {
        model.step(&values(1000 * index + step));
        if step % 7 == 0 {
            model.optimizer.wait_for_report().unwrap();
        }
    }
    model.bits()
}

#[test]
fn what_wgpu_lets_cross_threads_does() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Gpu>();
    crosses::<Optimizer>();
    crosses::<Arena>();
    crosses::<PendingCheckpoint>();
    crosses::<Checkpoint>();
    crosses::<wgpu_optim::cpu::CpuOptimizer<f32>>();
    crosses::<wgpu_optim::Error>();
}

/// Optimizers on one device, each stepped by a thread of its own.
#[test]
fn optimizers_on_one_device_do_not_meet() {
    let gpu = gpu();
    let alone: Vec<_> = (0..4).map(|index| run(&gpu, index)).collect();
    let start = Barrier::new(4);
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let (gpu, start) = (&gpu, &start);
                scope.spawn(move || {
                    start.wait();
                    run(gpu, index)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn two_devices_in_one_process_do_not_meet() {
    let alone = [run(&gpu(), 0), run(&gpu(), 1)];
    let devices = [own_gpu(), own_gpu()];
    let together = std::thread::scope(|scope| {
        let threads = [0, 1].map(|i| {
            let gpu = &devices[i];
            scope.spawn(move || run(gpu, i as u64))
        });
        threads.map(|t| t.join().unwrap())
    });
    assert_eq!(together, alone);
}

/// One optimizer whose steps are recorded by threads in turn and submitted in order.
#[test]
fn steps_recorded_by_several_threads_are_steps() {
    let gpu = gpu();
    let expected = run(&gpu, 0);
    let mut model = Model::new(&gpu, &config(0), &specs(), &values(0), Place::Arena);
    for step in 0..STEPS {
        model.write_gradients(&values(step));
        let (optimizer, device) = (&mut model.optimizer, &gpu);
        let recorded = std::thread::scope(|scope| {
            let recording = scope.spawn(move || {
                let mut encoder = support::encoder(device);
                optimizer.step(&mut encoder).unwrap();
                encoder.finish()
            });
            recording.join().unwrap()
        });
        gpu.queue().submit([recorded]);
    }
    assert_eq!(model.bits(), expected);
}

/// Checkpoints waited for on other threads while this one trains.
#[test]
fn checkpoints_are_taken_by_other_threads_while_training_goes_on() {
    let gpu = gpu();
    let mut model = Model::new(&gpu, &config(0), &specs(), &values(0), Place::Arena);
    let mut waiting = Vec::new();
    for step in 0..STEPS {
        model.step(&values(step));
        if step % 8 == 3 {
            let mut encoder = support::encoder(&gpu);
            let pending = model.optimizer.record_checkpoint(&mut encoder).unwrap();
            gpu.queue().submit([encoder.finish()]);
            waiting.push((step + 1, std::thread::spawn(move || pending.wait())));
        }
    }
    assert_eq!(model.bits(), run(&gpu, 0));
    for (steps, checkpoint) in waiting {
        let checkpoint = Arc::new(checkpoint.join().unwrap().unwrap());
        assert_eq!(checkpoint.state.steps_taken, steps);
    }
}
