//! The defaults that the documents tell are those of the code.

use wgpu_optim::schedule::Kind;
use wgpu_optim::{
    CommonOptions, DynamicScale, EmaConfig, GradientConfig, LossScale, OptionField, OptionValue, Options, Rule,
    StorageConfig, WeightsConfig, rules,
};

const CONFIGURATION: &str = include_str!("../docs/configuration.md");
const README: &str = include_str!("../README.md");

/// Whether the text says that number: all of it, or if that is long, rounded to the digits that the text has.
fn says_number(text: &str, value: f64) -> bool {
    let Ok(said) = text.parse::<f64>() else { return false };
    let mantissa = text.split(['e', 'E']).next().unwrap_or("").trim_start_matches('-');
    let digits = mantissa.trim_start_matches(['0', '.']).chars().filter(char::is_ascii_digit).count();
    let long = format!("{value:e}").split('e').next().is_some_and(|mantissa| mantissa.len() > 8);
    let rounded = || format!("{value:.*e}", digits.saturating_sub(1)).parse();
    said == value || long && digits >= 2 && rounded() == Ok(said)
}

/// Whether the text says that default, `off` being none.
fn says(text: &str, value: Option<&OptionValue>) -> bool {
    match value {
        None => text == "off",
        Some(OptionValue::Bool(value)) => text == value.to_string(),
        Some(OptionValue::Number(value)) => says_number(text, *value),
        Some(OptionValue::Numbers(values)) => {
            let Some(list) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) else { return false };
            let texts: Vec<_> = list.split(", ").collect();
            texts.len() == values.len() && texts.iter().zip(values).all(|(text, value)| says_number(text, *value))
        }
        Some(OptionValue::Text(value)) => text.trim_matches('`') == format!("{value:?}"),
        _ => false,
    }
}

#[test]
fn another_default_is_told_apart() {
    let number = |x: f64| Some(OptionValue::Number(x));
    let check = |text: &str, value: Option<OptionValue>| says(text, value.as_ref());
    assert!(check("1e-3", number(1e-3)) && check("0.999", number(0.999)) && check("off", None));
    assert!(check("1.2e-7", number(f64::from(f32::EPSILON))));
    assert!(!check("1.1e-7", number(f64::from(f32::EPSILON))) && !check("1e-7", number(f64::from(f32::EPSILON))));
    assert!(!check("0.99", number(0.999)) && !check("1.01e-3", number(1e-3)) && !check("off", number(0.0)));
    assert!(!check("0", None) && !check("true", number(1.0)));
    let pair = || Some(OptionValue::from([0.9, 0.999]));
    assert!(check("[0.9, 0.999]", pair()) && !check("[0.9, 0.99]", pair()) && !check("[0.9]", pair()));
}

/// Rows of the tables under a heading, by cells; what is in backticks may have a `|` in it.
fn rows<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = document.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The rows of a table of keys and defaults against a list of options, both ways.
fn check_table(heading: &str, options: &dyn Options) {
    let rows = rows(CONFIGURATION, heading);
    for (key, value) in options.options() {
        let row = rows.iter().find(|row| row[0] == format!("`{key}`"));
        let told = row.unwrap_or_else(|| panic!("{heading} lacks {key}"))[2];
        // Depends on another key.
        if (heading, key) == ("`[storage]`", "master") {
            assert!(value.is_none() && told == "\"f32\" for params of 16 bits", "{told}");
            continue;
        }
        assert!(says(told, value.as_ref()), "{heading} {key} is {value:?}, the table says {told}");
    }
}

#[test]
fn the_tables_of_the_engines_options_are_right() {
    check_table("`[optimizer]`", &CommonOptions::default());
    check_table("`[gradient]`", &GradientConfig::default());
    check_table("`[weights]`", &WeightsConfig::default());
    check_table("`[ema]`", &EmaConfig::default());
    check_table("`[storage]`", &StorageConfig::default());
}

/// The texts in backticks, each with what follows it in parentheses, if anything does before the next.
fn named(text: &str) -> Vec<(String, Option<String>)> {
    let mut parts = text.split('`');
    let mut found = Vec::new();
    while let (Some(_), Some(name)) = (parts.next(), parts.next()) {
        let rest = parts.clone().next().unwrap_or("").trim_start();
        let inner = rest.strip_prefix('(').map(|rest| rest.split(')').next().unwrap_or(rest).to_owned());
        found.push((name.to_owned(), inner));
    }
    found
}

#[test]
fn a_dynamic_scales_defaults_are_right() {
    let rows = rows(CONFIGURATION, "`[gradient]`");
    let row = rows.iter().find(|row| row[0] == "`loss_scale`").unwrap();
    let scale = LossScale::Dynamic(DynamicScale::default()).to_value();
    let Some(OptionValue::Table(values)) = scale else { panic!("{scale:?}") };
    let told = named(row[1]);
    assert_eq!(told.len(), values.len());
    for (key, text) in told {
        assert!(
            says_number(&text.clone().unwrap(), values[&key]),
            "{key} is {}, the table says {text:?}",
            values[&key]
        );
    }
}

/// Options of a kind of schedule.
fn options_of(kind: &Kind) -> Vec<(&'static str, Option<OptionValue>)> {
    match kind {
        Kind::Constant(own) => own.options(),
        Kind::Step(own) => own.options(),
        Kind::MultiStep(own) => own.options(),
        Kind::Exponential(own) => own.options(),
        Kind::InverseTime(own) => own.options(),
        Kind::Linear(own) => own.options(),
        Kind::Polynomial(own) => own.options(),
        Kind::Cosine(own) => own.options(),
        Kind::CosineRestarts(own) => own.options(),
        Kind::OneCycle(own) => own.options(),
        Kind::Plateau(own) => own.options(),
        Kind::Geometric(own) => own.options(),
        other => panic!("{} is not in this list", other.name()),
    }
}

#[test]
fn the_table_of_schedules_is_right() {
    let rows = rows(CONFIGURATION, "`[schedule]`");
    for name in Kind::NAMES {
        let row = rows.iter().find(|row| row[0] == format!("`{name}`"));
        let told = named(row.unwrap_or_else(|| panic!("no row for {name}"))[1]);
        let options = options_of(&Kind::by_name(name).unwrap());
        assert_eq!(told.len(), options.len(), "{name}: {told:?}");
        for (index, ((key, value), (told_key, text))) in options.iter().zip(&told).enumerate() {
            assert_eq!(key, told_key, "{name}");
            // Of several keys in a row the last says it for all.
            let text = text.clone().or_else(|| told[index..].iter().find_map(|(_, text)| text.clone()));
            let text = text.unwrap_or_else(|| panic!("{name}: {key} has no default in the table"));
            // A word that explains may follow.
            let default = text.split([';', ',']).next().unwrap();
            let right = default == "required" || says(default, value.as_ref());
            assert!(right, "{name}: {key} is {value:?}, the table says {text}");
        }
    }
}

/// What a row of the table of rules' options says of that rule: its default, or `None` where the README is to tell.
fn told_of(rule: &str, cell: &str) -> Option<Option<String>> {
    let listed = named(cell);
    let own = listed.iter().position(|(name, _)| name == rule);
    if let Some(rest) = cell.strip_prefix("all (") {
        // One default, and those that have another: "0, but `a` 1, `b` 2".
        let mut parts = rest.split(')').next().unwrap().split(", ");
        let common = parts.next().unwrap().to_owned();
        let other = parts.find_map(|part| part.trim_start_matches("but ").strip_prefix(&format!("`{rule}` ")));
        return Some(Some(other.map_or(common, str::to_owned)));
    }
    match own {
        Some(own) => Some(listed[own..].iter().find_map(|(_, text)| text.clone())),
        None if cell.starts_with("all") || cell.contains("and its kin") => Some(None),
        None => None,
    }
}

#[test]
fn the_table_of_rules_options_is_right() {
    let rows = rows(CONFIGURATION, "`[optimizer]`");
    for rule in rules::all() {
        for (key, value) in rule.options() {
            let mut told =
                rows.iter().filter(|row| row[0] == format!("`{key}`")).filter_map(|r| told_of(rule.name(), r[2]));
            // A rule's own row comes before what holds for all.
            let mut all: Vec<_> = told.by_ref().collect();
            all.sort_by_key(Option::is_none);
            let first = all.first().unwrap_or_else(|| panic!("no row has {key} of {}", rule.name()));
            let right = first.as_ref().is_none_or(|text| says(text, value.as_ref()));
            assert!(right, "{} {key} is {value:?}, the table says {first:?}", rule.name());
        }
    }
}

#[test]
fn the_readmes_table_of_rules_is_right() {
    let mut rows = README.lines().skip_while(|line| !line.starts_with("| rule ")).skip(2);
    for rule in rules::all() {
        let row: Vec<_> = rows.next().unwrap().split(" | ").collect();
        assert_eq!(row[0], format!("| `{}`", rule.name()));
        check_row(rule.as_ref(), row[1]);
        for slot in rule.slots() {
            let shown = row[3].contains(slot.name) || row[3].starts_with("as ");
            assert!(shown, "the table lacks {}'s {}", rule.name(), slot.name);
        }
    }
    assert!(!rows.next().unwrap().starts_with('|'));
}

/// "lr 1e-3, betas [0.9, 0.999], ...", in the order of the options.
fn check_row(rule: &dyn Rule, cell: &str) {
    let options = rule.options();
    let mut rest = cell;
    for (n, (key, value)) in options.iter().enumerate() {
        rest =
            rest.strip_prefix(&format!("{key} ")).unwrap_or_else(|| panic!("{}: {key} is not at {rest}", rule.name()));
        let next = options.get(n + 1).map(|(key, _)| format!(", {key} "));
        let end = next.map_or(rest.len(), |next| rest.find(&next).unwrap_or(rest.len()));
        let (text, after) = rest.split_at(end);
        assert!(says(text, value.as_ref()), "{}: {key} is {value:?}, the table says {text}", rule.name());
        rest = after.trim_start_matches(", ");
    }
    assert_eq!(rest, "", "{}", rule.name());
}
