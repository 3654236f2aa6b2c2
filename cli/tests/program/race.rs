use crate::fixtures::{Folder, json, program};

#[test]
fn everybody_leaves_the_saddle_and_learns_the_digits() {
    let folder = Folder::new();
    let plot = folder.arg("race.svg");
    let arguments = ["race", "--rule", "momentum,adam", "--on", "digits,saddle", "--steps", "400", "--epochs", "1"];
    let rows = json(&[arguments.as_slice(), &["--json", "--plot", &plot]].concat());
    let rows = rows.as_array().unwrap();
    let of = |rule: &str, on: &str| rows.iter().find(|r| r["rule"] == rule && r["on"] == on).unwrap();
    assert_eq!(rows.len(), 4);
    for rule in ["momentum", "adam"] {
        // The saddle itself is at 0.25; f32 ends a little above or below zero.
        assert!(of(rule, "saddle")["value"].as_f64().unwrap().abs() < 1e-4, "{rows:?}");
        assert!(of(rule, "saddle")["steps_to_1e-3"].as_u64().unwrap() < 400, "{rows:?}");
        assert!(of(rule, "digits")["value"].as_f64().unwrap() < 2.0, "{rows:?}");
    }
    let svg = std::fs::read_to_string(&plot).unwrap();
    for text in ["Saddle: paths", "Saddle: value", "Digits: training loss", "momentum, lr", "adam, lr", "minimum"] {
        assert!(svg.contains(text), "the plot lacks {text:?}");
    }
    assert!(!svg.contains("Beale"));
}

#[test]
fn an_unknown_rule_races_nowhere() {
    let outcome = program(&["race", "--rule", "adamm"], &[]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
    assert!(outcome.stderr.contains("adamm"), "{}", outcome.stderr);
}
