//! Learning rates against PyTorch's schedulers (its formula for the kinds that PyTorch has not).

use std::path::Path;

use serde_json::Value;
use wgpu_optim::rates::Rates;
use wgpu_optim::schedule::Kind;
use wgpu_optim::step::Plan;
use wgpu_optim::{OptimizerConfig, TensorSpec};

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
            "cautious, match, rule, frozen, params",
        ),
        ("kind = \"cosine\"\n        total_steps = 5", "kind = \"plateau\"", "stands alone"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        let error = toml::from_str::<OptimizerConfig>(&changed).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem:?} is not in {error}");
    }
}
