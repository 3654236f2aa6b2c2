//! Rates and schedules at run time follow the steps that the device really took.

mod support;

use support::model::{PLACES, Place};
use support::small::{config, gradients, model, oracle, tiny};
use support::{encoder, gpu, submit};
use wgpu_optim::gpu::STEP_ROWS;
use wgpu_optim::rules::Sgd;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{Group, OptimizerConfig, Schedule};

fn grouped() -> OptimizerConfig {
    config()
        .group(Group::matching("layer1.*").set("lr", 1e-2).set("weight_decay", 0.0))
        .group(Group::matching("layer2.*").set("betas", [0.5, 0.9]))
}

#[test]
fn rates_set_at_run_time_hold_from_the_next_submission_on() {
    let gpu = gpu();
    for place in PLACES {
        let mut model = model(&gpu, &grouped(), place);
        let mut oracle = oracle(&grouped());
        for step in 0..12 {
            match step {
                2 => {
                    model.optimizer.set_lr(5e-3).unwrap();
                    oracle.set(|o| o.set_lr(5e-3));
                }
                4 => {
                    model.optimizer.set_group_lr("layer1.*", 2e-4).unwrap();
                    oracle.set(|o| o.set_group_lr("layer1.*", 2e-4));
                }
                6 => {
                    model.optimizer.set_group_weight_decay("layer2.*", 0.9).unwrap();
                    oracle.set(|o| o.set_group_weight_decay("layer2.*", 0.9));
                }
                8 => {
                    model.optimizer.set_lr(0.0).unwrap();
                    oracle.set(|o| o.set_lr(0.0));
                }
                _ => {}
            }
            model.step(&gradients(step));
            let report = oracle.step_all(&gradients(step));
            let seen = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!(seen.lr as f32, report.lr as f32);
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
}

#[test]
fn a_rate_acts_on_steps_recorded_before_and_submitted_after() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    let mut oracle = oracle(&config());
    let mut recorded = encoder(&gpu);
    model.write_gradients(&gradients(0));
    model.optimizer.step(&mut recorded).unwrap();
    model.optimizer.set_lr(0.125).unwrap();
    oracle.set(|o| o.set_lr(0.125));
    gpu.queue().submit([recorded.finish()]);
    // And this one too late for it.
    model.optimizer.set_lr(7.0).unwrap();
    oracle.step_all(&gradients(0));
    oracle.check(&model.optimizer, "set between recording and submission");
}

#[test]
fn schedules_follow_the_steps_really_taken() {
    let gpu = gpu();
    let schedule = Schedule::from(Cosine { total_steps: 25, min_lr: 1e-5 }).with_warmup(5);
    let config = grouped().schedule(schedule);
    for place in PLACES {
        let mut model = model(&gpu, &config, place);
        let mut oracle = oracle(&config);
        for step in 0..30 {
            let mut values = gradients(step);
            if step % 7 == 3 {
                values[0][0] = f32::INFINITY;
            }
            model.step(&values);
            let want = oracle.step_all(&values);
            let got = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((got.skipped, got.steps_taken), (want.skipped, want.steps_taken));
            // The device multiplies two f32, each rounded once.
            assert!((got.lr - want.lr).abs() <= 2e-7 * want.lr, "{place:?} step {step}: {} {}", got.lr, want.lr);
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
}

#[test]
fn a_rate_set_under_a_schedule_acts_on_the_very_next_step() {
    let gpu = gpu();
    // The end is a rate, not a factor: with another base rate every factor differs.
    let config = config().schedule(Cosine { total_steps: 10, min_lr: 5e-4 });
    let mut model = model(&gpu, &config, Place::Arena);
    let mut oracle = oracle(&config);
    for step in 0..12 {
        if step % 4 == 3 {
            let lr = 1e-3 * step as f64;
            model.optimizer.set_lr(lr).unwrap();
            oracle.set(|o| o.set_lr(lr));
        }
        model.step(&gradients(step));
        let want = oracle.step_all(&gradients(step));
        let got = model.optimizer.wait_for_report().unwrap().unwrap();
        assert!((got.lr - want.lr).abs() <= 2e-7 * want.lr, "step {step}: {} {}", got.lr, want.lr);
    }
    oracle.check(&model.optimizer, "three rates under a cosine");
}

#[test]
fn a_schedule_goes_on_past_the_ring() {
    let gpu = gpu();
    let total = STEP_ROWS + STEP_ROWS / 2;
    let config =
        OptimizerConfig::new(Sgd { lr: 1e-2, ..Sgd::default() }).schedule(Cosine { total_steps: total, min_lr: 1e-5 });
    let (mut model, mut oracle) = tiny(&gpu, &config);
    for _ in 0..total / 64 {
        submit(&gpu, |encoder| (0..64).for_each(|_| model.optimizer.step(encoder).unwrap()));
        for _ in 0..64 {
            oracle.step_all(&[vec![0.25]]);
        }
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "a cosine longer than the table");
}
