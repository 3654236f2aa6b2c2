//! Learning rates against PyTorch's schedulers (its formula for the kinds that PyTorch has not).

use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::Value;
use wgpu_optim::plan::Plan;
use wgpu_optim::rates::Rates;
use wgpu_optim::rules::{self, Sgd};
use wgpu_optim::schedule::{Constant, Exponential, Geometric, Kind, LARGEST_LR, MultiStep, OneCycle};
use wgpu_optim::{Group, OptimizerConfig, OptionValue, Schedule, TensorSpec};

/// Of the base rate, since near zero PyTorch's own rounding shows. Both sides are float64 formulas;
/// PyTorch's chained ones round at every step.
const LIMIT: f64 = 1e-12;

struct Case {
    name: String,
    kind: String,
    lr: f64,
    config: OptimizerConfig,
    values: Vec<f64>,
    losses: Vec<f64>,
    total_steps: Option<u64>,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schedules.json");
    let rows: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(rows.len() >= 35, "only {} cases", rows.len());
    let one = |row: &Value| {
        let (name, lr) = (row["name"].as_str().unwrap(), row["lr"].as_f64().unwrap());
        let config = serde_json::json!({ "optimizer": { "rule": "sgd", "lr": lr }, "schedule": row["schedule"] });
        let list = |key: &str| -> Vec<f64> {
            row.get(key).map_or_else(Vec::new, |list| serde_json::from_value(list.clone()).unwrap())
        };
        Case {
            name: name.to_owned(),
            kind: row["schedule"]["kind"].as_str().unwrap().to_owned(),
            lr,
            config: serde_json::from_value(config).unwrap_or_else(|e| panic!("{name}: {e}")),
            values: list("values"),
            losses: list("losses"),
            total_steps: row["schedule"].get("total_steps").and_then(Value::as_u64),
        }
    };
    rows.iter().map(one).collect()
}

fn rates(case: &Case) -> Rates {
    Rates::new(&Plan::new(&case.config, &[TensorSpec::new("w", [1])]).unwrap())
}

/// Every step at which the rate is off, in words.
fn misses(case: &Case) -> Vec<String> {
    let mut rates = rates(case);
    let mut misses = Vec::new();
    assert!(case.values.len() > 60, "{}", case.name);
    for (t, expected) in case.values.iter().enumerate() {
        let found = case.lr * rates.factor(t as u64);
        let within = (found - expected).abs() <= LIMIT * case.lr;
        if !within {
            misses.push(format!("{} at {t}: {found:e}, expected {expected:e}", case.name));
        }
        if let Some(loss) = case.losses.get(t) {
            rates.report_loss(*loss).unwrap();
        }
    }
    misses
}

#[test]
fn rates_agree_with_pytorch() {
    let all: Vec<_> = cases().iter().flat_map(misses).collect();
    assert!(all.is_empty(), "{} misses:\n{}", all.len(), all.join("\n"));
}

#[test]
fn every_kind_has_a_reference() {
    let cases = cases();
    for name in Kind::NAMES {
        assert!(cases.iter().any(|case| case.kind == *name), "nothing to compare {name} with");
    }
}

#[test]
fn a_perturbed_rate_is_a_miss() {
    for mut case in cases() {
        case.values[37] += 2.0 * LIMIT * case.lr;
        assert_eq!(misses(&case).len(), 1, "{}", case.name);
        case.values[60] = f64::NAN;
        assert_eq!(misses(&case).len(), 2, "{}", case.name);
    }
}

#[test]
fn the_last_value_holds() {
    for case in cases() {
        let Some(total) = case.total_steps else { continue };
        let rates = rates(&case);
        for t in [total + 1, 10 * total, u64::MAX / 2, u64::MAX] {
            assert_eq!(rates.factor(t), rates.factor(total), "{} after {t} steps", case.name);
        }
    }
}

#[test]
fn no_schedule_fails_however_many_steps_are_taken() {
    for case in cases() {
        for t in [1 << 20, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let factor = rates(&case).factor(t);
            assert!((0.0..=1.0).contains(&factor), "{} after {t} steps: {factor}", case.name);
        }
    }
}

/// PyTorch's SequentialLR of LinearLR(1, 0.5, 4), ExponentialLR(0.9) from step 6 and
/// CosineAnnealingLR(5, 0.01) from step 9, at a rate of 0.1.
const SEQUENCE: [f64; 15] = [
    0.1,
    0.08750000000000001,
    0.07500000000000001,
    0.06250000000000001,
    0.05000000000000002,
    0.05000000000000002,
    0.1,
    0.09000000000000001,
    0.08100000000000002,
    0.1,
    0.09140576474687263,
    0.06890576474687263,
    0.04109423525312736,
    0.018594235253127367,
    0.01,
];

#[test]
fn schedules_follow_one_another_as_pytorchs() {
    let text = r#"
        [optimizer]
        rule = "sgd"
        lr = 0.1
        [schedule]
        kind = "linear"
        total_steps = 4
        end_factor = 0.5
        [[schedule.then]]
        after = 6
        kind = "exponential"
        gamma = 0.9
        [[schedule.then]]
        after = 3
        kind = "cosine"
        total_steps = 5
        min_lr = 0.01
    "#;
    let config: OptimizerConfig = toml::from_str(text).unwrap();
    for (t, expected) in SEQUENCE.iter().enumerate() {
        let found = config.schedule.lr(t as u64, 0.1);
        assert!((found - expected).abs() <= 1e-12 * expected, "step {t}: {found} {expected}");
    }
    // The last value holds.
    assert_eq!(config.schedule.lr(1000, 0.1), config.schedule.lr(14, 0.1));

    for (from, to, problem) in [
        ("after = 3", "after = 0", "schedule.then[1].after: must"),
        ("after = 3", "", "schedule.then[1].after: is missing"),
        ("gamma = 0.9", "gamma = -1.0", "schedule.then[0].gamma: must"),
        ("gamma = 0.9", "gamma = true", "schedule.then[0].gamma: expected"),
        (
            "min_lr",
            "max_lr",
            "schedule.then[1].max_lr: unknown key; allowed are total_steps, min_lr, warmup_steps, kind, after",
        ),
        (
            "end_factor",
            "end",
            "schedule.end: unknown key; allowed are total_steps, end_factor, warmup_steps, kind, then",
        ),
        ("rule = \"sgd\"", "rule = \"sgd\"\n        rate = 1", "cautious, rule"),
        (
            "[schedule]",
            "[[groups]]\n        match = \"*\"\n        rate = 1\n        [schedule]",
            "cautious, match, rule, frozen, name, clip, lr_scale, schedule, schedules, params",
        ),
        ("kind = \"cosine\"\n        total_steps = 5", "kind = \"plateau\"", "stands alone"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let error = toml::from_str::<OptimizerConfig>(&changed).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem:?} is not in {error}");
    }
}

/// However many follow one another: nothing recurses, and nothing is gone through once for each of them.
#[test]
fn long_sequences_take_no_stack_and_little_time() {
    const COUNT: u64 = 50_000;
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let sequence = small.spawn(|| {
        let mut all = Schedule::from(Constant {});
        for n in 1..COUNT {
            all = all.then(1, Exponential { gamma: n as f64 });
        }
        let twin = all.clone();
        assert_eq!(all, twin);
        assert_eq!(format!("{all:?}"), format!("{twin:?}"));
        all.check(1.0).unwrap();
        assert_eq!(all.lr(COUNT, 1.0), (COUNT - 1) as f64);
        let whole = Schedule::from(Constant {}).then(1, twin);
        assert_eq!(whole.then.len() as u64, COUNT);
    });
    sequence.unwrap().join().unwrap();

    let mut text = "[optimizer]\nrule = \"sgd\"\n[schedule]\nkind = \"constant\"\n".to_owned();
    for _ in 0..COUNT / 5 {
        text += "[[schedule.then]]\nafter = 1\nkind = \"constant\"\n";
    }
    let small = std::thread::Builder::new().stack_size(512 << 10);
    let read = small.spawn(move || toml::from_str::<OptimizerConfig>(&text).unwrap().schedule.then.len());
    assert_eq!(read.unwrap().join().unwrap() as u64, COUNT / 5);
}

/// A window of rates takes about as long under ten thousand shapes, or milestones, as under one: their place is searched
/// for, not walked to. Walked, it takes some hundred times as long.
#[test]
fn a_window_of_rates_takes_no_walk_along_the_schedule() {
    const COUNT: u64 = 10_000;
    const WINDOW: u64 = 4096;
    let shapes = |count| (1..count).fold(Schedule::default(), |all, _| all.then(1, Exponential { gamma: 1.5 }));
    let milestones = |count| Schedule::from(MultiStep { milestones: (1..=count).collect(), gamma: 1.0 });
    // Of the fewest that were seen, since a machine may be busy.
    let time = |schedule: Schedule| {
        let plan = Plan::new(&OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).schedule(schedule), &[]).unwrap();
        let rates = Rates::new(&plan);
        let window = || (COUNT..COUNT + WINDOW).map(|t| rates.lr(t)).sum::<f64>();
        let timed = |_| {
            let start = Instant::now();
            assert!(std::hint::black_box(window()).is_finite());
            start.elapsed()
        };
        (0..7).map(timed).min().unwrap()
    };
    for (what, few, many) in
        [("shapes", time(shapes(2)), time(shapes(COUNT))), ("milestones", time(milestones(1)), time(milestones(COUNT)))]
    {
        assert!(many < 20 * few, "{what}: {many:?}, and {few:?} with one");
    }
}

/// One after the other, a step at a time, as it is without a search.
#[test]
fn a_search_finds_the_shape_that_a_walk_does() {
    let shape = |n: u64| Exponential { gamma: 1.0 + n as f64 / 64.0 };
    let lengths = [3, 1, 7, 2, u64::MAX - 20, u64::MAX, 5];
    let numbered = (1..).zip(lengths);
    let schedule = numbered.fold(Schedule::from(shape(0)), |all, (n, length)| all.then(length, shape(n)));
    let config = OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).schedule(schedule.clone());
    let rates = Rates::new(&Plan::new(&config, &[]).unwrap());
    for t in (0..40).chain(u64::MAX - 40..=u64::MAX) {
        assert_eq!(rates.lr(t), schedule.lr(t, 1.0), "after {t} steps");
    }
}

#[test]
fn what_follows_a_sequence_follows_its_last() {
    let two = Schedule::from(Exponential { gamma: 0.5 }).with_warmup(1).then(2, Constant {});
    let four = Schedule::from(Constant {}).then(3, two).then(4, Exponential { gamma: 0.25 });
    let rates: Vec<_> = (0..11).map(|t| four.lr(t, 1.0)).collect();
    assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.25]);
    assert_eq!(
        four.then.iter().map(|then| (then.after, then.warmup_steps)).collect::<Vec<_>>(),
        [(3, 1), (2, 0), (4, 0)]
    );
}

/// A number that an option may have, the farthest among them.
fn extreme() -> impl Strategy<Value = f64> {
    let far = [0.0, 5e-324, 1e-300, 1e-45, 1e-38, 1e-3, 1.0, 2.0, 1e20, LARGEST_LR];
    prop_oneof![prop::sample::select(far.to_vec()), 0.0..2.0]
}

proptest! {
    /// Any schedule that is accepted gives every group a rate that f32 holds, at every step.
    #[test]
    fn rates_stay_within_f32(
        kind in prop::sample::select(Kind::NAMES.to_vec()),
        numbers in prop::collection::vec(extreme(), 8),
        base in extreme(),
        own in extreme(),
        warmup in 0u64..4,
        taken in prop_oneof![0u64..40, Just(u64::from(u32::MAX))],
        set in extreme(),
    ) {
        let mut schedule = Schedule { kind: Kind::by_name(kind).unwrap(), warmup_steps: warmup, then: Vec::new() };
        let mut numbers = numbers.into_iter();
        for key in ["gamma", "decay", "end_factor", "power", "min_lr", "max_lr", "pct_start", "div_factor", "final_div_factor", "factor"] {
            if let Some(number) = numbers.next() {
                let _ = schedule.set_option(key, &OptionValue::Number(number));
            }
        }
        for key in ["total_steps", "step_size", "period", "patience"] {
            let _ = schedule.set_option(key, &OptionValue::Number(7.0));
        }
        let _ = schedule.set_option("milestones", &OptionValue::Numbers(vec![1.0, 5.0]));
        let config = OptimizerConfig::new(Sgd { lr: base, ..Sgd::default() })
            .group(Group::matching("b").set("lr", own))
            .schedule(schedule);
        prop_assume!(config.check().is_ok());
        let mut rates = Rates::new(&Plan::new(&config, &[TensorSpec::new("b", [1])]).unwrap());
        for _ in 0..2 {
            let factor = rates.factor(taken);
            prop_assert!(factor.is_finite() && factor >= 0.0, "factor {factor}");
            let lr = rates.lr(taken);
            prop_assert!((0.0..=LARGEST_LR).contains(&lr), "rate {lr}");
            let _ = rates.report_loss(1.0);
            let _ = rates.set_lr(set);
        }
    }
}

#[test]
fn a_rate_that_leaves_f32_is_held_there() {
    let rates = |lr: f64, gamma: f64| {
        let config = OptimizerConfig::new(Sgd { lr, ..Sgd::default() }).schedule(Exponential { gamma });
        Rates::new(&Plan::new(&config, &[]).unwrap())
    };
    let rates_of = |rates: Rates, steps: u64| (0..steps).map(|t| rates.lr(t)).collect::<Vec<_>>();
    let held = rates_of(rates(1e-3, 1e20), 5);
    assert!((held[2] - 1e37).abs() < 1e24);
    assert_eq!(held[3..], [LARGEST_LR; 2]);
    assert_eq!(rates_of(rates(0.0, 1e20), 20), [0.0; 20], "0 times whatever is 0");
    // One over next to nothing.
    let cycle = OneCycle { total_steps: 9, max_lr: 1.0, div_factor: 1e-320, ..OneCycle::default() };
    assert!((0..20).all(|t| (0.0..=LARGEST_LR).contains(&Schedule::from(cycle.clone()).lr(t, 1.0))));
}

#[test]
fn a_rate_that_a_schedule_cannot_use_is_that_of_the_optimizer() {
    let cycle = Schedule::from(OneCycle { total_steps: 9, max_lr: 1.0, ..OneCycle::default() });
    let geometric = Schedule::from(Geometric { total_steps: 9, min_lr: 1.0 });
    let config = |schedule: Schedule, lr: f64| OptimizerConfig::new(Sgd { lr, ..Sgd::default() }).schedule(schedule);
    let later = Schedule::default().then(3, geometric.clone());
    for (schedule, kind) in [(cycle.clone(), "one_cycle"), (geometric, "geometric"), (later, "geometric")] {
        let words = format!("optimizer.lr: must be a finite number above 0 with schedule {kind:?}, got 0.0");
        assert_eq!(config(schedule.clone(), 0.0).check().unwrap_err().to_string(), words);
        let mut rates = Rates::new(&Plan::new(&config(schedule.clone(), 0.5), &[]).unwrap());
        assert_eq!(rates.set_lr(0.0).unwrap_err().to_string(), words);
        let set = rates.set_lr(1.0);
        assert_eq!(rates.goes_by_lr(), kind != "one_cycle");
        match kind {
            "one_cycle" => {
                assert!(set.unwrap_err().to_string().contains("optimizer.lr: cannot be set"), "it acts on nothing")
            }
            _ => set.unwrap(),
        }
    }
    // A group's rate is a ratio to those of the cycle; and where something follows it, the base rate acts there.
    let grouped = config(cycle.clone(), 0.5).group(Group::matching("b").set("lr", 1.0));
    let mut rates = Rates::new(&Plan::new(&grouped, &[TensorSpec::new("b", [1])]).unwrap());
    rates.set_group_lr(1, "groups.\"b\"", 0.25).unwrap();
    let mut rates = Rates::new(&Plan::new(&config(cycle.then(9, Constant {}), 0.5), &[]).unwrap());
    rates.set_lr(0.25).unwrap();
    assert_eq!(rates.lr(9), 0.25);
}

/// Rprop sizes its steps itself: what cannot act is refused.
#[test]
fn rates_that_no_rule_goes_by_are_refused() {
    let rprop = || OptimizerConfig::from_boxed(rules::by_name("rprop").unwrap());
    let words = "schedule.kind: acts on nothing: rule \"rprop\" takes lr as its first step size only";
    for schedule in [Exponential { gamma: 0.5 }.into(), Schedule::default().with_warmup(3)] {
        let config = rprop().schedule(schedule);
        config.check().unwrap();
        assert_eq!(config.check_schedule().unwrap_err().to_string(), words);
    }
    rprop().schedule(Schedule::default().then(3, Constant {})).check_schedule().unwrap();
    // Another rule of a group goes by it, unless it is frozen.
    let group = || Group::matching("b").rule(Sgd::default());
    rprop().group(group()).schedule(Exponential { gamma: 0.5 }).check_schedule().unwrap();
    assert!(rprop().group(group().frozen()).schedule(Exponential { gamma: 0.5 }).check_schedule().is_err());

    let b = [TensorSpec::new("b", [1])];
    let mut alone = Rates::new(&Plan::new(&rprop(), &b).unwrap());
    let first = |table: &str| format!("{table}.lr: rule \"rprop\" takes it as its first step size only");
    assert!(!alone.goes_by_lr());
    assert_eq!(alone.set_lr(0.5).unwrap_err().to_string(), first("optimizer"));
    let mixed = OptimizerConfig::new(Sgd::default()).group(Group::matching("b").rule(rules::Rprop::default()));
    let mut mixed = Rates::new(&Plan::new(&mixed, &b).unwrap());
    mixed.set_lr(0.5).unwrap();
    let before = mixed.state();
    assert_eq!(mixed.set_group_lr(1, "groups.\"b\"", 0.5).unwrap_err().to_string(), first("groups.\"b\""));
    let none = mixed.set_group_weight_decay(1, "groups.\"b\"", 0.5).unwrap_err().to_string();
    assert_eq!(none, "groups.\"b\".weight_decay: rule \"rprop\" has none");
    assert_eq!(mixed.state(), before);
    for rule in rules::all().into_iter().filter(|rule| rule.name() != "rprop") {
        let mut rates = Rates::new(&Plan::new(&OptimizerConfig::from_boxed(rule), &b).unwrap());
        rates.set_lr(0.5).unwrap();
        rates.set_group_weight_decay(0, "optimizer", 0.5).unwrap();
    }
}
