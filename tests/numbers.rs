//! Numbers of groups: scales and schedules of their own, schedules of other numbers than the rate, and numbers set while a
//! run goes on. Against PyTorch's arithmetic by hand (`param_groups`, `LambdaLR`), and the GPU against the oracle.

mod support;

use std::f64::consts::PI;

use support::model::{Model, PLACES, Place};
use support::oracle::{Oracle, Run};
use support::small::{config, gradients, model, oracle, parameters, specs};
use support::{encoder, gpu, own_gpu};
use wgpu_optim::rules::{self, AdamW, NAdam, RmsProp, Rprop, Sgd};
use wgpu_optim::schedule::{Constant, Cosine, Exponential, Linear, OneCycle, Plateau, Step};
use wgpu_optim::{Checkpoint, Group, OptimizerConfig, OptionValue, Schedule, TensorSpec};

fn sgd(lr: f64) -> OptimizerConfig {
    OptimizerConfig::new(Sgd { lr, ..Sgd::default() })
}

fn four() -> Vec<TensorSpec> {
    ["a", "b", "c", "d"].map(|name| TensorSpec::new(name, [1])).to_vec()
}

fn cosine(t: usize, lr: f64, min: f64, total: f64) -> f64 {
    min + (lr - min) * (1.0 + (PI * (t as f64 / total).min(1.0)).cos()) / 2.0
}

/// A schedule for all, one with a scale, one with a schedule of its own and both, and one that stays.
fn scheduled() -> OptimizerConfig {
    sgd(0.5)
        .schedule(Cosine { total_steps: 6, min_lr: 0.05 })
        .group(Group::matching("a").lr_scale(0.1).named("slow"))
        .group(Group::matching("b").set("lr", 0.25).lr_scale(2.0).schedule(Exponential { gamma: 0.5 }))
        .group(Group::matching("c").schedule(Schedule::from(Constant {}).with_warmup(4)))
}

/// By hand: what `LambdaLR` with a function for each group would set.
fn by_hand(t: usize) -> [f64; 4] {
    let all = cosine(t, 0.5, 0.05, 6.0);
    [0.1 * all, 2.0 * 0.25 * 0.5f64.powi(t as i32), 0.5 * ((t + 1) as f64 / 4.0).min(1.0), all]
}

#[test]
fn groups_have_scales_and_schedules_of_their_own() {
    let gpu = gpu();
    let start = vec![vec![1.0f32]; 4];
    let mut run = Run::<f64>::new(&scheduled(), &four(), &start);
    let mut model = Model::new(&gpu, &scheduled(), &four(), &start, Place::Arena);
    let mut expected = [1.0f64; 4];
    for t in 0..8 {
        let rates = by_hand(t);
        for (label, rate) in ["slow", "b", "c", "optimizer"].into_iter().zip(rates) {
            for found in [run.optimizer.group_lr(label).unwrap(), model.optimizer.group_lr(label).unwrap()] {
                assert!((found - rate).abs() <= 1e-15, "{label} after {t}: {found}, {rate}");
            }
        }
        assert_eq!(run.optimizer.lr(), run.optimizer.group_lr("optimizer").unwrap());
        run.step(&[const { None }; 4].map(|_: Option<()>| Some(vec![1.0])));
        model.step(&[const { Vec::<f32>::new() }; 4].map(|_| vec![1.0]));
        expected.iter_mut().zip(rates).for_each(|(p, rate)| *p -= rate);
    }
    for (t, expected) in expected.iter().enumerate() {
        assert!((run.params[t][0] - expected).abs() < 1e-14, "{t}: {} {expected}", run.params[t][0]);
        assert!((f64::from(model.params()[t][0]) - expected).abs() < 1e-6, "{t}: {} {expected}", model.params()[t][0]);
    }
}

#[test]
fn rates_that_are_set_go_through_schedules_and_leave_scales_alone() {
    let mut run = Run::<f64>::new(&scheduled(), &four(), &vec![vec![1.0f32]; 4]);
    let rate = |run: &Run<f64>, label: &str| run.optimizer.group_lr(label).unwrap();
    // Both kinds of schedule, by the ratio.
    run.optimizer.set_lr(1.0).unwrap();
    assert_eq!(["slow", "b", "c", "optimizer"].map(|label| rate(&run, label)), [0.1, 1.0, 0.25, 1.0]);
    run.optimizer.set_group_lr("slow", 2.0).unwrap();
    run.optimizer.set_group_lr("b", 0.125).unwrap();
    assert_eq!(["slow", "b"].map(|label| rate(&run, label)), [0.2, 0.25]);
    let state = run.optimizer.rates().state().unwrap();
    assert_eq!(state.groups[1].pattern.as_deref(), Some("slow"));
    // Rates of its own.
    let cycle = OneCycle { total_steps: 10, max_lr: 1.0, ..OneCycle::default() };
    let mut own = Run::<f64>::new(&sgd(0.5).group(Group::matching("a").schedule(cycle)), &four(), &vec![vec![1.0]; 4]);
    let error = own.optimizer.set_group_lr("a", 0.1).unwrap_err().to_string();
    assert!(error.contains("groups.\"a\"") && error.contains("one_cycle"), "{error}");
}

/// Each watches for itself, from its own rate, and what it remembers is saved.
#[test]
fn every_plateau_hears_the_loss() {
    let gpu = gpu();
    let falls = |patience, factor| Plateau { patience, factor, ..Plateau::default() };
    let config = sgd(0.5)
        .schedule(falls(1, 0.5))
        .group(Group::matching("a").schedule(falls(0, 0.1)))
        .group(Group::matching("b").schedule(Constant {}));
    let start = vec![vec![1.0f32]; 4];
    let mut models: Vec<_> = (0..2).map(|_| Model::new(&gpu, &config, &four(), &start, Place::Arena)).collect();
    let mut run = Run::<f32>::new(&config, &four(), &start);
    for _ in 0..4 {
        models[0].optimizer.report_loss(1.0).unwrap();
        run.optimizer.report_loss(1.0).unwrap();
    }
    // PyTorch: the first figure is the best; of three more, one is borne, or none.
    for label in ["a", "b", "d"] {
        let expected = match label {
            "a" => 0.5 * 0.1 * 0.1 * 0.1,
            "b" => 0.5,
            _ => 0.25,
        };
        let label = if label == "d" { "optimizer" } else { label };
        for found in [models[0].optimizer.group_lr(label).unwrap(), run.optimizer.group_lr(label).unwrap()] {
            assert!((found - expected).abs() < 1e-15, "{label}: {found}, {expected}");
        }
    }
    let saved = models[0].optimizer.checkpoint_blocking().unwrap().to_safetensors().unwrap();
    let read = Checkpoint::from_safetensors(&saved, models[1].optimizer.plan()).unwrap();
    models[1].optimizer.load_checkpoint(&read).unwrap();
    for model in &mut models {
        model.optimizer.report_loss(1.0).unwrap();
        model.step(&vec![vec![1.0]; 4]);
    }
    assert_eq!(models[0].bits(), models[1].bits());
    assert_eq!(models[1].optimizer.state_blocking().unwrap().group_plateaus.len(), 1);
    let mut other = Run::<f32>::new(&config, &four(), &start);
    other.optimizer.load_state(&models[0].optimizer.state_blocking().unwrap()).unwrap();
    run.optimizer.report_loss(1.0).unwrap();
    assert_eq!(other.optimizer.group_lr("a").unwrap(), run.optimizer.group_lr("a").unwrap());
}

fn of_numbers() -> OptimizerConfig {
    OptimizerConfig::new(AdamW { lr: 0.01, weight_decay: 0.5, ..AdamW::default() })
        .option_schedule("weight_decay", Cosine { total_steps: 6, min_lr: 0.1 })
        .option_schedule("beta1", Linear { total_steps: 8, end_factor: 0.5 })
        .option_schedule("eps", Step { step_size: 2, gamma: 10.0 })
        .group(Group::matching("b").set("weight_decay", 0.0).set("betas", [0.8, 0.99]))
        .group(Group::matching("c").option_schedule("beta2", Exponential { gamma: 0.999 }))
}

/// PyTorch's AdamW in f64, whose `param_groups` have other numbers at every step.
fn adamw_by_hand(steps: usize, numbers: impl Fn(usize) -> [f64; 4], gradient: impl Fn(usize) -> f64) -> f64 {
    let (mut p, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
    for t in 0..steps {
        let ([beta1, beta2, eps, decay], g) = (numbers(t), gradient(t));
        p *= 1.0 - 0.01 * decay;
        m = beta1 * m + (1.0 - beta1) * g;
        v = beta2 * v + (1.0 - beta2) * g * g;
        let [first, second] = [beta1, beta2].map(|beta| 1.0 - beta.powi(t as i32 + 1));
        p -= 0.01 / first * m / ((v / second).sqrt() + eps);
    }
    p
}

#[test]
fn numbers_have_schedules() {
    let gpu = gpu();
    let gradient = |t: usize| 1.0 + 0.5 * (t as f64).sin();
    let start = vec![vec![1.0f32]; 4];
    let mut run = Run::<f64>::new(&of_numbers(), &four(), &start);
    let mut model = Model::new(&gpu, &of_numbers(), &four(), &start, Place::Arena);
    let mut oracle = Oracle::new(&of_numbers(), &four(), &start);
    for t in 0..10 {
        run.step(&vec![Some(vec![gradient(t)]); 4]);
        let rounded = vec![vec![gradient(t) as f32]; 4];
        model.step(&rounded);
        oracle.step_all(&rounded);
    }
    let way = |t: usize| (t as f64 / 8.0).min(1.0);
    let eps = |t: usize| 1e-8 * 10f64.powi(t as i32 / 2);
    let beta1 = |t: usize| 0.9 * (1.0 - 0.5 * way(t));
    let decay = |t: usize| cosine(t, 0.5, 0.1, 6.0);
    let expected = [
        adamw_by_hand(10, |t| [beta1(t), 0.999, eps(t), decay(t)], gradient),
        // Its own numbers are left alone.
        adamw_by_hand(10, |t| [0.8, 0.99, eps(t), 0.0], gradient),
        adamw_by_hand(10, |t| [beta1(t), 0.999 * 0.999f64.powi(t as i32), eps(t), decay(t)], gradient),
    ];
    for (t, expected) in [0, 1, 2, 3].into_iter().zip([expected[0], expected[1], expected[2], expected[0]]) {
        assert!((run.params[t][0] - expected).abs() < 1e-13, "{t}: {} {expected}", run.params[t][0]);
    }
    oracle.check(&model.optimizer, "schedules of numbers");
}

/// A tensor that misses steps goes by its own count; a decay of each kind follows its schedule.
#[test]
fn schedules_of_numbers_follow_each_tensors_own_count() {
    let gpu = gpu();
    let falls = || Linear { total_steps: 6, end_factor: 0.0 };
    let decaying = |mut rule: Box<dyn wgpu_optim::Rule>| {
        rule.set_option("weight_decay", &OptionValue::Number(0.2)).unwrap();
        OptimizerConfig::from_boxed(rule).option_schedule("weight_decay", falls())
    };
    for name in ["adamw", "adam", "lamb", "schedule_free_adamw"] {
        let config = decaying(rules::by_name(name).unwrap());
        let mut model = model(&gpu, &config, Place::Arena);
        let mut oracle = oracle(&config);
        for step in 0..6 {
            let some: Vec<_> =
                gradients(step).into_iter().enumerate().map(|(t, g)| (t != 1 || step % 2 == 0).then_some(g)).collect();
            model.step_some(&some);
            oracle.step(&some);
        }
        oracle.check(&model.optimizer, name);
    }
}

fn sharing() -> OptimizerConfig {
    config()
        .group(Group::matching("layer1.*").set("lr", 2e-3).named("one"))
        .group(Group::matching("layer2.*").set("weight_decay", 0.0))
        .group(Group::matching("layer3.*").set("eps", 1e-3))
}

/// Groups that share their scalars, one that does not, and the rest; nothing is built, nothing waits, and encoders that
/// were recorded before follow.
#[test]
fn numbers_are_set_while_a_run_goes_on() {
    let gpu = own_gpu();
    for place in PLACES {
        let mut model = model(&gpu, &sharing(), place);
        let mut oracle = oracle(&sharing());
        let both = |model: &mut Model, oracle: &mut Oracle, label: &str, key: &str, value: OptionValue| {
            let before = gpu.objects_created();
            model.optimizer.set_option(label, key, value.clone()).unwrap();
            let after = gpu.objects_created();
            assert_eq!(
                (before.pipelines, before.bind_groups, before.buffers),
                (after.pipelines, after.bind_groups, after.buffers)
            );
            oracle.exact.optimizer.set_option(label, key, value.clone()).unwrap();
            oracle.peer.optimizer.set_option(label, key, value).unwrap();
        };
        for step in 0..12 {
            match step {
                2 => both(&mut model, &mut oracle, "one", "beta1", 0.5.into()),
                3 => both(&mut model, &mut oracle, "layer3.*", "eps", 0.1.into()),
                4 => both(&mut model, &mut oracle, "optimizer", "betas", [0.7, 0.9].into()),
                5 => both(&mut model, &mut oracle, "layer2.*", "weight_decay", 0.3.into()),
                6 => both(&mut model, &mut oracle, "one", "lr", 5e-3.into()),
                7 => both(&mut model, &mut oracle, "layer2.*", "beta2", 0.99.into()),
                8 => both(&mut model, &mut oracle, "one", "beta1", 0.9.into()),
                _ => {}
            }
            model.write_gradients(&gradients(step));
            let mut recorded = encoder(&gpu);
            model.optimizer.step(&mut recorded).unwrap();
            if step == 9 {
                both(&mut model, &mut oracle, "one", "beta2", 0.5.into());
            }
            gpu.queue().submit([recorded.finish()]);
            oracle.step_all(&gradients(step));
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
}

/// What was set is part of the state.
#[test]
fn numbers_that_were_set_are_resumed_to_the_same_bits() {
    let gpu = gpu();
    let config = sharing().option_schedule("beta2", Linear { total_steps: 30, end_factor: 0.9 });
    let mut straight = model(&gpu, &config, Place::Arena);
    let step = |model: &mut Model, from: usize| (from..from + 3).for_each(|step| model.step(&gradients(step)));
    step(&mut straight, 0);
    straight.optimizer.set_option("one", "betas", [0.5, 0.98]).unwrap();
    straight.optimizer.set_option("layer3.*", "eps", 0.1).unwrap();
    step(&mut straight, 3);
    let saved = straight.optimizer.checkpoint_blocking().unwrap().to_safetensors().unwrap();
    assert!(String::from_utf8_lossy(&saved).contains("\"version\":\"3\""), "older readers must refuse it");
    let mut second = model(&gpu, &config, Place::Arena);
    second.optimizer.set_option("layer2.*", "eps", 0.5).unwrap();
    let read = Checkpoint::from_safetensors(&saved, second.optimizer.plan()).unwrap();
    second.optimizer.load_checkpoint(&read).unwrap();
    assert_eq!(second.optimizer.rates().state(), straight.optimizer.rates().state());
    step(&mut straight, 6);
    step(&mut second, 6);
    assert_eq!(second.bits(), straight.bits());
    // And by what goes on with other tensors.
    let mut run = Run::<f32>::new(&config, &specs(), &parameters());
    run.optimizer.load_state(&straight.optimizer.state_blocking().unwrap()).unwrap();
    assert_eq!(run.optimizer.rates().state(), straight.optimizer.rates().state());
    let fewer = "layer0.weight";
    for numbers in [run.optimizer.rates().state(), straight.optimizer.rates().state()] {
        assert_eq!(numbers.unwrap().groups[1].options["betas"], OptionValue::Numbers(vec![0.5, 0.98]));
    }
    straight.optimizer.remove_tensors(&[fewer]).unwrap();
    run.optimizer.remove_tensors(&[fewer]).unwrap();
    assert_eq!(run.optimizer.rates().state(), straight.optimizer.rates().state());
    assert!(straight.optimizer.rates().state().is_some());
    // A state in which nothing is set brings all back.
    let plain = model(&gpu, &config, Place::Arena).optimizer.checkpoint_blocking().unwrap();
    assert!(String::from_utf8_lossy(&plain.to_safetensors().unwrap()).contains("\"version\":\"2\""));
    second.optimizer.load_checkpoint(&plain).unwrap();
    assert_eq!(second.optimizer.rates().state(), None);
    second.write_params(&parameters());
    let mut fresh = model(&gpu, &config, Place::Arena);
    step(&mut second, 0);
    step(&mut fresh, 0);
    assert_eq!(second.bits(), fresh.bits());
}

/// Any number of any rule, set before the first step, is as if it had been configured.
#[test]
fn every_number_of_every_rule_can_be_set() {
    let small = vec![TensorSpec::new("w", [3, 4])];
    let start = vec![(0..12).map(|i| 0.1 * i as f32 - 0.5).collect::<Vec<f32>>()];
    let mut refused = Vec::new();
    for rule in rules::all() {
        for (key, value) in rule.options() {
            let value = match value {
                Some(OptionValue::Number(0.0)) => OptionValue::Number(1.0),
                Some(OptionValue::Number(x)) => OptionValue::Number(0.5 * x),
                Some(OptionValue::Numbers(list)) => OptionValue::Numbers(list.iter().map(|x| 0.95 * x).collect()),
                Some(value) => value,
                None => OptionValue::Number(0.5),
            };
            let mut set = Run::<f64>::new(&OptimizerConfig::from_boxed(rule.clone()), &small, &start);
            if let Err(error) = set.optimizer.set_option("optimizer", key, value.clone()) {
                refused.push(format!("{} {}", rule.name(), error));
                continue;
            }
            let mut other = rule.clone();
            other.set_option(key, &value).unwrap();
            let mut configured = Run::<f64>::new(&OptimizerConfig::from_boxed(other), &small, &start);
            for step in 0..4 {
                let g: Vec<f64> = (0..12).map(|i| ((i * 7 + step * 3) % 5) as f64 - 1.9).collect();
                set.step(&[Some(g.clone())]);
                configured.step(&[Some(g)]);
            }
            assert_eq!(set.params, configured.params, "{} {key}", rule.name());
        }
    }
    for words in &refused {
        let reason = ["selects code", "needs a slot", "state starts from", "first step size only", "at most 0"];
        assert!(reason.iter().any(|reason| words.contains(reason)), "{words}");
    }
    let has = |rule: &str, key: &str| refused.iter().any(|words| words.starts_with(rule) && words.contains(key));
    assert!(
        has("adamw", "amsgrad") && has("sgd", "momentum") && has("yogi", "initial_accumulator_value"),
        "{refused:?}"
    );
    assert!(refused.len() < 20, "{refused:#?}");
}

#[test]
fn what_cannot_change_is_refused_by_name() {
    let mut run = Run::<f64>::new(&sharing(), &specs(), &parameters());
    let cases = [
        ("one", "eps", OptionValue::Number(0.0), "groups.\"one\".eps: must be a normal f32"),
        ("one", "beta2", 1.0.into(), "betas: must be at least 0 and below 1"),
        ("one", "amsgrad", true.into(), "selects code"),
        ("one", "beta3", 0.5.into(), "beta3"),
        ("one", "momentum", 0.5.into(), "allowed are lr, beta1, beta2, eps, weight_decay"),
        ("one", "beta1", "much".into(), "expected a number"),
        ("one", "weight_decay", (-1.0).into(), "weight_decay: must be a finite number, at least 0"),
        ("none", "eps", 0.5.into(), "no such group; there are [\"one\", \"layer2.*\", \"layer3.*\"]"),
    ];
    for (label, key, value, words) in cases {
        let error = run.optimizer.set_option(label, key, value).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    assert_eq!(run.optimizer.rates().state(), None, "nothing is changed");
}

#[test]
fn schedules_that_cannot_be_are_refused_by_name() {
    let linear = |end_factor| Linear { total_steps: 9, end_factor };
    let refused = |config: OptimizerConfig, words: &str| {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
    let of = |key: &str, schedule: Schedule| config().option_schedule(key, schedule);
    refused(of("lr", linear(0.5).into()), "schedules.lr: the rate has a schedule of its own");
    refused(of("amsgrad", linear(0.5).into()), "schedules.amsgrad: selects code");
    refused(of("momentum", linear(0.5).into()), "allowed are");
    refused(of("eps", Plateau::default().into()), "schedules.eps.kind: \"plateau\"");
    refused(
        of("beta1", linear(1.2).into()),
        "schedules.beta1: after 5 steps of its schedule: must be at least 0 and below 1",
    );
    refused(of("eps", linear(0.0).into()), "after 9 steps of its schedule: must be a normal f32");
    refused(of("eps", Exponential { gamma: 0.5 }.into()), "schedules.eps: after");
    refused(of("eps", Cosine { total_steps: 9, min_lr: -1.0 }.into()), "schedules.eps.min_value");
    let own = |group: Group| config().group(group);
    refused(own(Group::matching("*").lr_scale(-1.0)), "groups.\"*\".lr_scale");
    refused(
        own(Group::matching("*").named("x").schedule(Cosine { total_steps: 0, min_lr: 0.0 })),
        "groups.\"x\".schedule.total_steps",
    );
    refused(own(Group::matching("*").rule(Rprop::default()).schedule(linear(0.5))), "acts on nothing");
    refused(own(Group::matching("*").option_schedule("beta1", linear(2.0))), "groups.\"*\".schedules.beta1");
    refused(own(Group::matching("*").named("x")).group(Group::matching("y").named("x")), "name: is given twice");
    refused(own(Group::matching("*").named("optimizer")), "no group claims");
    let momentum = |momentum| OptimizerConfig::new(Sgd { momentum, ..Sgd::default() });
    refused(
        momentum(0.0).option_schedule("momentum", OneCycle { total_steps: 9, max_lr: 0.9, ..OneCycle::default() }),
        "momentum",
    );
    momentum(0.9).option_schedule("momentum", linear(0.0)).check().unwrap();
    OptimizerConfig::new(RmsProp::default()).option_schedule("alpha", linear(0.5)).check().unwrap();
    OptimizerConfig::new(NAdam::default()).option_schedule("momentum_decay", linear(0.5)).check().unwrap();
}
