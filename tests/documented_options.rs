//! The tables of `docs/configuration.md` against the code: every key is there, with its default and the range that it is
//! declared with, which is exactly what is accepted, bound by bound.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use wgpu_optim::options::range::Declaration;
use wgpu_optim::rules::{self, AdamW};
use wgpu_optim::schedule::Kind;
use wgpu_optim::{
    CommonOptions, DynamicScale, EmaConfig, GradientConfig, LossScale, NoiseConfig, OptimizerConfig, OptionField,
    OptionValue, Options, Rule, Schedule, StorageConfig, WeightsConfig,
};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    std::fs::read_to_string(path).unwrap()
}

/// The cells of the table that follows a heading, after as many others as `nth` says.
fn table(heading: &str, nth: usize) -> Vec<Vec<String>> {
    let text = document();
    let section = text.split("\n## ").find(|part| part.starts_with(heading)).unwrap();
    let mut rest: Vec<&str> = section.lines().collect();
    for _ in 0..nth {
        let start = rest.iter().position(|line| line.starts_with('|')).unwrap();
        let rows = rest[start..].iter().take_while(|line| line.starts_with('|')).count();
        rest.drain(..start + rows);
    }
    let start = rest.iter().position(|line| line.starts_with('|')).unwrap();
    let rows = rest[start..].iter().take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn ticked(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn number(text: &str) -> f64 {
    match text.split_once('^') {
        Some((base, power)) => base.parse::<f64>().unwrap().powi(power.parse().unwrap()),
        None => text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")),
    }
}

/// A value as the tables write it; `off` is none.
fn value(text: &str) -> Option<OptionValue> {
    Some(match text {
        "off" => return None,
        "true" | "false" => OptionValue::Bool(text == "true"),
        _ if text.starts_with('"') => OptionValue::Text(text.trim_matches('"').to_owned()),
        _ if text.starts_with('[') => {
            OptionValue::Numbers(text.trim_matches(['[', ']']).split(", ").map(number).collect())
        }
        _ => OptionValue::Number(number(text)),
    })
}

/// Whole numbers are numbers too.
fn plain(value: Option<OptionValue>) -> Option<OptionValue> {
    value.map(|value| match value {
        OptionValue::Whole(n) => OptionValue::Number(n as f64),
        other => other,
    })
}

/// Numbers on the bounds of a range and next to them: those that must be accepted, and those that must not.
fn around(range: &str) -> [Vec<f64>; 2] {
    let whole = range.starts_with("whole");
    let largest = f64::from(f32::MAX);
    let (mut good, mut bad) = (Vec::new(), vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    let mut bound = |at: f64, open: bool, up: bool| {
        let beside = match (whole, up) {
            (true, true) => at + 1.0,
            (true, false) => at - 1.0,
            (false, true) => at.next_up(),
            (false, false) => at.next_down(),
        };
        // Where a bound is open, what lies inside of it.
        let inside = match (open, whole) {
            (false, _) => at,
            (true, true) => at + if up { -1.0 } else { 1.0 },
            (true, false) => {
                if up {
                    at.next_down()
                } else {
                    at.next_up()
                }
            }
        };
        good.push(inside);
        bad.push(if open { at } else { beside });
    };
    let (mut low, mut high) = (false, false);
    for part in range.split(", ") {
        let of = |words: &str| part.strip_prefix(words).map(number);
        match part {
            "whole" | "finite" => {}
            "normal" => {
                bound(f64::from(f32::MIN_POSITIVE), false, false);
                bound(largest, false, true);
                (low, high) = (true, true);
            }
            _ if part.starts_with("from ") => {
                let (from, to) = part[5..].split_once(" to ").unwrap();
                bound(number(from), false, false);
                bound(number(to), false, true);
                (low, high) = (true, true);
            }
            _ => {
                let (at, open, up) = of("at least ")
                    .map(|n| (n, false, false))
                    .or(of("above ").map(|n| (n, true, false)))
                    .or(of("at most ").map(|n| (n, false, true)))
                    .or(of("below ").map(|n| (n, true, true)))
                    .unwrap_or_else(|| panic!("{part:?} of {range:?} says nothing to this test"));
                bound(at, open, up);
                *(if up { &mut high } else { &mut low }) = true;
            }
        }
    }
    if range.starts_with("finite") {
        if !low {
            bound(-largest, false, false);
        }
        if !high {
            bound(largest, false, true);
        }
    }
    if whole {
        bad.push(1.5);
        // How far they go is a matter of what floats hold.
        good.retain(|n| *n < 1e15);
    }
    [good, bad]
}

/// Values that an option takes, and values that it refuses, by what a table says is allowed.
fn probes(allowed: &str, default: &Option<OptionValue>) -> [Vec<OptionValue>; 2] {
    let numbers = |range: &str| around(range).map(|list| list.into_iter().map(OptionValue::Number).collect::<Vec<_>>());
    let in_list = |place: Range<usize>, range: &str| -> [Vec<OptionValue>; 2] {
        let Some(OptionValue::Numbers(list)) = default else { panic!("{default:?} is no list") };
        let put = |n: f64, i: usize| {
            let mut list = list.clone();
            list[i] = n;
            OptionValue::Numbers(list)
        };
        around(range).map(|numbers| place.clone().flat_map(|i| numbers.iter().map(move |n| put(*n, i))).collect())
    };
    let join = |[a, b]: [Vec<OptionValue>; 2], [c, d]: [Vec<OptionValue>; 2]| [[a, c].concat(), [b, d].concat()];
    if allowed == "true or false" {
        return [vec![true.into(), false.into()], vec![OptionValue::Number(1.0), "true".into()]];
    }
    if allowed.starts_with('"') {
        let words: Vec<_> = allowed.split('"').skip(1).step_by(2).collect();
        let others = WORDS.into_iter().filter(|word| !words.contains(word)).map(OptionValue::from);
        let others = others.chain([OptionValue::Number(1.0)]).collect();
        assert!(words.iter().all(|word| WORDS.contains(word)), "WORDS lacks one of {allowed}");
        return [words.into_iter().map(OptionValue::from).collect(), others];
    }
    if allowed == "a rising list of whole numbers" {
        let lists = |lists: &[&[f64]]| lists.iter().map(|list| OptionValue::Numbers(list.to_vec())).collect();
        return [lists(&[&[0.0], &[1.0, 5.0, 5.0]]), lists(&[&[], &[2.0, 1.0], &[1.5], &[-1.0]])];
    }
    if let Some(range) = allowed.strip_prefix("each ") {
        let Some(OptionValue::Numbers(list)) = default else { panic!("{default:?} is no list") };
        return in_list(0..list.len(), range);
    }
    if let Some(both) = allowed.strip_prefix("two numbers: the first ") {
        let (first, second) = both.split_once(", the second ").unwrap();
        return join(in_list(0..1, first), in_list(1..2, second));
    }
    numbers(allowed)
}

/// Words that some option takes, and two that none does: each option takes its own alone.
const WORDS: [&str; 18] = [
    "f32",
    "f16",
    "bf16",
    "q8",
    "none",
    "nearest",
    "stochastic",
    "skip",
    "zero",
    "propagate",
    "cos",
    "linear",
    "min",
    "max",
    "rel",
    "abs",
    "else",
    "",
];

/// A rule, and options that it does not take together.
type Refused = (&'static str, &'static [(&'static str, &'static str)]);

/// What stands after a range, in words, and can be looked at only by hand: a rule, and settings that it must refuse.
const NOTES: [(&str, &[Refused]); 7] = [
    ("the schedules `one_cycle` and `geometric` need it above 0", &[]),
    ("0 keeps no buffer, but in `lars`", &[]),
    ("with `nesterov` only 0", &[("sgd", &[("momentum", "0.9"), ("nesterov", "true"), ("dampening", "0.1")])]),
    ("in `sgd` it needs `momentum` above 0 and `dampening` 0", &[("sgd", &[("nesterov", "true")])]),
    ("the second not below the first", &[("rprop", &[("step_sizes", "[1, 0.5]")])]),
    ("part of the rule: its steps grow, and so do their shares in the average", &[]),
    ("or a table", &[]),
];

fn check_note(note: &str) {
    let (_, refused) = NOTES.iter().find(|(text, _)| *text == note).unwrap_or_else(|| panic!("{note:?} is not known"));
    for (rule, settings) in *refused {
        let mut config = OptimizerConfig::named(rule).unwrap();
        for (key, text) in *settings {
            config.rule.set_option(key, &value(text).unwrap()).unwrap();
        }
        assert!(config.check().is_err(), "{rule} with {settings:?}, and the table says {note:?}");
    }
}

/// The numbers of a rule's option are what `allowed` says, and no others.
#[track_caller]
fn check_range(what: &str, allowed: &str, default: &Option<OptionValue>, accepts: impl Fn(&OptionValue) -> bool) {
    let [good, bad] = probes(allowed, default);
    assert!(!good.is_empty() && !bad.is_empty(), "{what}: {allowed}");
    for value in good {
        assert!(accepts(&value), "{what} refuses {value}, and the table says {allowed:?}");
    }
    for value in bad {
        assert!(!accepts(&value), "{what} takes {value}, and the table says {allowed:?}");
    }
}

/// The rules that a cell names, with their defaults; all that are not named otherwise where it says so.
fn rules_of(cell: &str) -> BTreeMap<String, Option<String>> {
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut rest = cell;
    while !rest.is_empty() {
        // A default may itself hold brackets of a list, but no round ones.
        let (names, default, after) = match rest.split_once(" (") {
            Some((names, after)) => {
                let (default, after) = after.split_once(')').unwrap();
                (names, Some(default.to_owned()), after.trim_start_matches(", "))
            }
            None => (rest, None, ""),
        };
        let (listed, except) = names.split_once(" but ").unwrap_or((names, ""));
        let own: Vec<String> = match listed {
            "all" | "all others" => {
                let out = ticked(except);
                let names = rules::all().into_iter().map(|rule| rule.name().to_owned());
                names.filter(|name| !found.contains_key(name) && !out.contains(&name.as_str())).collect()
            }
            _ => ticked(listed).into_iter().map(str::to_owned).collect(),
        };
        assert!(!own.is_empty(), "{cell}");
        found.extend(own.into_iter().map(|name| (name, default.clone())));
        rest = after;
    }
    found
}

#[test]
fn options_of_rules_are_as_documented() {
    let mut seen = Vec::new();
    for row in table("`[optimizer]`", 1) {
        let [key, rules, allowed] = row.as_slice() else { panic!("{row:?}") };
        let key = ticked(key)[0];
        if key == "rule" {
            continue;
        }
        let mut parts = allowed.split("; ");
        let range = parts.next().unwrap();
        parts.for_each(check_note);
        let rules = rules.split("; ").next().unwrap();
        for (name, default) in rules_of(rules) {
            let rule = rules::by_name(&name).unwrap();
            let declared = rule.declarations().into_iter().find(|declared| declared.key == key);
            let Declaration { default: code, takes, .. } =
                declared.unwrap_or_else(|| panic!("{name} has no {key}, and the table says so"));
            assert_eq!(takes, range, "what is declared of {name}'s {key}");
            if let Some(default) = default {
                assert_eq!(value(&default), plain(code.clone()), "the default of {name}'s {key}");
            }
            seen.push((name.clone(), key.to_owned()));
            check_range(&format!("{name}'s {key}"), range, &code, |value| {
                let mut config = OptimizerConfig::from_boxed(rule.clone());
                config.rule.set_option(key, value).is_ok() && config.check().is_ok() || is_noted(&name, key, value)
            });
        }
    }
    seen.sort();
    let mut all: Vec<_> = rules::all().iter().flat_map(|rule| options_of(rule.as_ref())).collect();
    all.sort();
    assert_eq!(seen, all, "every option of every rule once");
}

fn options_of(rule: &dyn Rule) -> Vec<(String, String)> {
    rule.options().into_iter().map(|(key, _)| (rule.name().to_owned(), key.to_owned())).collect()
}

/// Settings within a range that a note takes out of it.
fn is_noted(name: &str, key: &str, value: &OptionValue) -> bool {
    match (name, key, value) {
        // Nesterov's momentum needs what is off by default; least and largest step go together.
        ("sgd", "nesterov", OptionValue::Bool(true)) => true,
        ("rprop", "step_sizes", OptionValue::Numbers(list)) => {
            let least = 0.0..=f64::from(f32::MAX);
            list[0] > list[1] && least.contains(&list[0]) && least.contains(&list[1]) && list[1] > 0.0
        }
        _ => false,
    }
}

/// Every key of a table with its default, and the numbers that it takes where they stand alone.
fn check_table(name: &str, rows: &[Vec<String>], options: &dyn Options, accepts: impl Fn(&str, &OptionValue) -> bool) {
    let code: BTreeMap<_, _> = options.declarations().into_iter().map(|declared| (declared.key, declared)).collect();
    let mut keys = Vec::new();
    for row in rows {
        let [key, default, allowed, ..] = row.as_slice() else { panic!("{row:?}") };
        let key = ticked(key)[0];
        keys.push(key);
        let Declaration { default: own, takes, .. } =
            code.get(key).unwrap_or_else(|| panic!("there is no {name}.{key}"));
        assert_eq!(value(default), plain(own.clone()), "the default of {name}.{key}");
        let (range, note) = allowed.split_once("; ").unwrap_or((allowed, ""));
        assert_eq!(takes, range, "what is declared of {name}.{key}");
        if !note.is_empty() {
            check_note(note);
        }
        check_range(&format!("{name}.{key}"), range, own, |value| accepts(key, value));
    }
    keys.sort_unstable();
    assert_eq!(keys, code.keys().copied().collect::<Vec<_>>(), "the keys of [{name}]");
}

fn config() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

#[test]
fn options_of_tables_are_as_documented() {
    check_table("gradient", &table("`[gradient]`", 0), &GradientConfig::default(), |key, value| {
        let mut config = config();
        config.gradient.set_option(key, value).is_ok() && config.check().is_ok()
    });
    check_table("weights", &table("`[weights]`", 0), &WeightsConfig::default(), |key, value| {
        let mut config = config();
        config.weights.set_option(key, value).is_ok() && config.check().is_ok()
    });
    check_table("ema", &table("`[ema]`", 0), &EmaConfig::default(), |key, value| {
        let mut config = config().ema(EmaConfig::default());
        config.ema.as_mut().unwrap().set_option(key, value).is_ok() && config.check().is_ok()
    });
    check_table("noise", &table("`[noise]`", 0), &NoiseConfig::default(), |key, value| {
        let mut config = config().noise(NoiseConfig::default());
        config.noise.as_mut().unwrap().set_option(key, value).is_ok() && config.check().is_ok()
    });
    check_table("storage", &table("`[storage]`", 0), &StorageConfig::default(), |key, value| {
        let mut config = config();
        // A master and chance take 16 bits.
        match (key, value) {
            ("master", _) => config.storage.set_option("params", &"f16".into()).unwrap(),
            ("rounding", _) => config.storage.set_option("params", &"bf16".into()).unwrap(),
            _ => {}
        }
        config.storage.set_option(key, value).is_ok() && config.check().is_ok()
    });
    let rows = table("`[optimizer]`", 0);
    let code = CommonOptions::default().declarations();
    let code: Vec<_> = code.iter().map(|d| (d.key, d.default.clone(), d.takes.as_str())).collect();
    let documented = rows.iter().map(|row| (ticked(&row[0])[0], value(&row[2]), row[1].as_str()));
    assert_eq!(documented.collect::<Vec<_>>(), code);
}

#[test]
fn a_dynamic_scale_is_as_documented() {
    let rows = table("`[gradient]`", 1);
    let Some(OptionValue::Table(defaults)) = LossScale::Dynamic(DynamicScale::default()).to_value() else { panic!() };
    let mut found = BTreeMap::new();
    for row in &rows {
        let key = ticked(&row[0])[0];
        found.insert(key.to_owned(), number(&row[1]));
        check_range(&format!("loss_scale.{key}"), &row[2], &None, |value| {
            let OptionValue::Number(number) = value else { panic!() };
            let table = OptionValue::Table([(key.to_owned(), *number)].into());
            let mut config = config();
            config.gradient.set_option("loss_scale", &table).is_ok() && config.check().is_ok()
        });
    }
    assert_eq!(found, defaults);
}

/// `key` (default; range), one after the other.
fn keys_of(cell: &str) -> Vec<(String, String, String)> {
    let mut keys = Vec::new();
    let mut rest = cell;
    while let Some((key, after)) = rest.strip_prefix('`').and_then(|rest| rest.split_once("` (")) {
        let (inside, after) = after.split_once(')').unwrap();
        let (default, range) = inside.split_once("; ").unwrap_or((inside, "finite, at least 0"));
        keys.push((key.to_owned(), default.to_owned(), range.to_owned()));
        rest = after.trim_start_matches(", ");
    }
    assert!(rest.is_empty(), "{cell}");
    keys
}

const WARMUP: u64 = 5;

fn settled(kind: &str, keys: &[(String, String, String)], but: &str) -> Schedule {
    let mut schedule = Schedule { kind: Kind::by_name(kind).unwrap(), warmup_steps: WARMUP, then: Vec::new() };
    for (key, ..) in keys.iter().filter(|(key, default, _)| default == "required" && key != but) {
        let number = if key == "milestones" { OptionValue::Numbers(vec![3.0]) } else { OptionValue::Number(9.0) };
        schedule.set_option(key, &number).unwrap();
    }
    schedule
}

#[test]
fn schedules_are_as_documented() {
    let rows = table("`[schedule]`", 1);
    let kinds: Vec<_> = rows.iter().map(|row| ticked(&row[0])[0]).collect();
    let mut known = Kind::NAMES.to_vec();
    let mut sorted = kinds.clone();
    known.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(sorted, known);
    for row in &rows {
        let (kind, keys) = (ticked(&row[0])[0], keys_of(&row[1]));
        let declared = Kind::by_name(kind).unwrap().declarations();
        let defaults: BTreeMap<_, _> = declared.into_iter().map(|d| (d.key, (d.default, d.takes))).collect();
        let mut listed: Vec<_> = keys.iter().map(|(key, ..)| key.as_str()).collect();
        listed.sort_unstable();
        assert_eq!(listed, defaults.keys().copied().collect::<Vec<_>>(), "the keys of {kind}");
        settled(kind, &keys, "").check(1.0).unwrap();
        for (key, default, range) in &keys {
            let (own, takes) = &defaults[key.as_str()];
            assert_eq!(takes, range, "what is declared of {kind}'s {key}");
            if default == "required" {
                let error = settled(kind, &keys, key).check(1.0).unwrap_err();
                assert_eq!(error.key, *key, "{kind} without {key}");
            } else {
                assert_eq!(value(default), plain(own.clone()), "the default of {kind}'s {key}");
            }
            let range = range.replace("warmup_steps", &WARMUP.to_string());
            check_range(&format!("{kind}'s {key}"), &range, own, |value| {
                let mut schedule = settled(kind, &keys, key);
                schedule.set_option(key, value).is_ok() && schedule.check(1.0).is_ok()
            });
        }
    }
    let first = table("`[schedule]`", 0);
    assert_eq!(first[1][..3], ["`warmup_steps`", "0", "whole, at least 0"]);
    assert_eq!(Schedule::default().warmup_steps, 0);
}

/// A table that is off by the last digit or by a bound is found.
#[test]
fn what_is_off_is_found() {
    assert_ne!(value("[0.9, 0.9991]"), value("[0.9, 0.999]"));
    let refuses = |allowed: &str, accepts: fn(f64) -> bool| {
        let check = || {
            check_range("it", allowed, &None, |value| matches!(value, OptionValue::Number(n) if accepts(*n)));
        };
        std::panic::catch_unwind(check).is_err()
    };
    assert!(!refuses("at least 0, below 1", |n| (0.0..1.0).contains(&n)));
    assert!(refuses("at least 0, below 1", |n| (0.0..=1.0).contains(&n)));
    assert!(refuses("at least 0, below 1", |n| n > 0.0 && n < 1.0));
    assert!(!refuses("finite, above 0", |n| n > 0.0 && n <= f64::from(f32::MAX)));
    assert!(refuses("finite, above 0", |n| n > 0.0 && n.is_finite()));
    assert!(refuses("whole, from 1 to 4", |n| (1.0..=5.0).contains(&n) && n.fract() == 0.0));
}
