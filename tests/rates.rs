//! Rates and schedules at run time follow the steps that the device really took.

mod support;

use support::model::{Model, PLACES, Place};
use support::oracle::{Oracle, Run};
use support::small::{config, gradients, model, oracle, tiny};
use support::{encoder, gpu, submit};
use wgpu_optim::gpu::STEP_ROWS;
use wgpu_optim::rules::{self, AdamW, Sgd};
use wgpu_optim::schedule::{Cosine, Exponential, LARGEST_LR};
use wgpu_optim::{Group, OptimizerConfig, Schedule, TensorSpec};

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

/// Where the rate leaves f32 it is held there on both backends, whatever multiplies it; a parameter whose gradient is
/// always 0 stays where it is.
#[test]
fn no_rate_that_leaves_f32_makes_nan() {
    let gpu = gpu();
    let specs = ["w", "own", "still", "matrix"].map(|name| match name {
        "matrix" => TensorSpec::new(name, [2, 3]),
        _ => TensorSpec::new(name, [2]),
    });
    let params = [vec![0.5, -0.25], vec![0.5, 2.0], vec![0.75, 1e-3], vec![0.5, 0.25, -1.0, 0.0, 1.0, 2.0]];
    let still: Vec<_> = params.iter().map(|p| vec![0.0; p.len()]).collect();
    let mut configs: Vec<_> = rules::all()
        .into_iter()
        .filter(|rule| rule.scaled_by_lr())
        .map(|rule| (rule.name().to_owned(), OptimizerConfig::from_boxed(rule)))
        .collect();
    let mut cautious = OptimizerConfig::new(AdamW::default());
    cautious.common.cautious = true;
    configs.push(("cautious".to_owned(), cautious));
    for (name, config) in configs {
        for base in [1e-3, 0.0, 1e-42] {
            let mut config = config.clone().group(Group::matching("own").set("lr", 20.0));
            config.rule.set_option("lr", &base.into()).unwrap();
            config.rule.set_option("weight_decay", &0.0.into()).unwrap();
            // Yogi's moves a parameter without a gradient, too.
            let _ = config.rule.set_option("initial_accumulator_value", &0.0.into());
            let config = config.schedule(Exponential { gamma: 1e20 });
            let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
            let mut oracle = Oracle::new(&config, &specs, &params);
            for step in 0..6 {
                model.step(&still);
                let want = oracle.step_all(&still);
                let got = model.optimizer.wait_for_report().unwrap().unwrap();
                assert!(want.lr <= LARGEST_LR && got.lr <= LARGEST_LR, "{name}: {} {}", want.lr, got.lr);
                // A device may flush what is below the least normal number.
                let near = (got.lr - want.lr).abs() <= 2e-6 * want.lr + 1.2e-38;
                assert!(near, "{name} from {base} in step {step}: {} {}", got.lr, want.lr);
            }
            for found in [model.optimizer.params_blocking().unwrap(), oracle.peer.params.clone()] {
                assert_eq!(found, params, "{name} from {base}");
            }
            oracle.check(&model.optimizer, &format!("{name} from {base}"));
        }
    }
}

/// What a rate multiplies beside the direction: decay, the growth of a mask, a share in an average.
#[test]
fn what_multiplies_a_rate_is_held_too() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [4])];
    let params = [vec![0.0, 0.0, 0.0, 1e-30]];
    let gradients = [vec![0.0, 0.0, 0.0, 1.0]];
    for rule in ["adamw", "schedule_free_adamw"] {
        let mut config = OptimizerConfig::named(rule).unwrap();
        config.rule.set_option("lr", &LARGEST_LR.into()).unwrap();
        config.rule.set_option("weight_decay", &1e3.into()).unwrap();
        config.common.cautious = rule == "adamw";
        let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
        let mut cpu = Run::<f32>::new(&config, &specs, &params);
        model.step(&gradients);
        cpu.step(&gradients.clone().map(Some));
        for found in [model.optimizer.params_blocking().unwrap(), cpu.params] {
            assert_eq!(found[0][..3], [0.0; 3], "{rule}");
        }
        let weight_sum = cpu.optimizer.state().tensors[0].weight_sum;
        assert_eq!(model.optimizer.state_blocking().unwrap().tensors[0].weight_sum, weight_sum, "{rule}");
        assert!(weight_sum.is_finite());
    }
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
