//! The defaults that the README tells are those of the code. `documented_options.rs` has those of the configuration.

use wgpu_optim::{OptionValue, Rule, rules};

const README: &str = include_str!("../README.md");

/// Whether the text says exactly that number, perhaps as a power.
fn says_number(text: &str, value: f64) -> bool {
    let said = match text.split_once('^') {
        Some((base, power)) => base.parse::<f64>().ok().zip(power.parse().ok()).map(|(base, power)| base.powi(power)),
        None => text.parse().ok(),
    };
    said == Some(value)
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
    let epsilon = || number(f64::from(f32::EPSILON));
    assert!(check("2^-23", epsilon()) && !check("2^-24", epsilon()) && !check("1.2e-7", epsilon()));
    assert!(!check("0.99", number(0.999)) && !check("1.01e-3", number(1e-3)) && !check("off", number(0.0)));
    assert!(!check("0", None) && !check("true", number(1.0)));
    let pair = || Some(OptionValue::from([0.9, 0.999]));
    assert!(check("[0.9, 0.999]", pair()) && !check("[0.9, 0.99]", pair()) && !check("[0.9]", pair()));
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
