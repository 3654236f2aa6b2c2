//! Numbers of a rule by name, as they change while a run goes on: by a schedule, or set.

use std::collections::BTreeMap;

use super::Schedule;
use super::schedule::Kind;
use crate::error::Result;
use crate::options::{OptionError, OptionValue, unknown_key};
use crate::rule::Rule;

/// The option whose members have names, and these.
const BETAS: &str = "betas";
const MEMBERS: [&str; 3] = ["beta1", "beta2", "beta3"];

/// The option that a name speaks of.
pub(crate) fn option_of(key: &str) -> &str {
    if MEMBERS.contains(&key) { BETAS } else { key }
}

/// The number of that name.
///
/// # Errors
/// The rule has no such number; the error names those that it has.
pub(crate) fn number_of(rule: &dyn Rule, key: &str) -> Result<f64, OptionError> {
    let options = rule.options();
    let value = options.iter().find(|(name, _)| *name == option_of(key)).map(|(_, value)| value.as_ref());
    let number = match (value, MEMBERS.iter().position(|member| *member == key)) {
        (Some(Some(OptionValue::Numbers(list))), Some(place)) => list.get(place).copied(),
        (Some(Some(value)), None) => value.number(),
        _ => None,
    };
    number.ok_or_else(|| {
        let problem = match value {
            Some(Some(OptionValue::Bool(_) | OptionValue::Text(_))) => "selects code, which stays; ",
            Some(Some(OptionValue::Numbers(_))) => "is a list; ",
            _ => "",
        };
        let mut known: Vec<&str> = Vec::new();
        for (name, value) in &options {
            match value {
                Some(OptionValue::Numbers(list)) if *name == BETAS => known.extend(&MEMBERS[..list.len().min(3)]),
                Some(OptionValue::Number(_) | OptionValue::Whole(_)) => known.push(name),
                _ => {}
            }
        }
        match problem {
            "" => OptionError::new(key, unknown_key(&known)),
            problem => OptionError::new(key, format!("{problem}allowed are {}", known.join(", "))),
        }
    })
}

/// Whether that many numbers of a rule, or one, are the option's value now.
fn is_numeric(rule: &dyn Rule, option: &str) -> bool {
    let value = rule.options().into_iter().find(|(name, _)| *name == option).and_then(|(_, value)| value);
    matches!(value, Some(OptionValue::Number(_) | OptionValue::Whole(_) | OptionValue::Numbers(_)))
}

/// Sets a number, a member of `betas` by its name, without a look at ranges.
pub(crate) fn set(rule: &mut dyn Rule, key: &str, value: &OptionValue) -> Result<(), OptionError> {
    let Some(place) = MEMBERS.iter().position(|member| *member == key) else {
        return rule.set_option(key, value);
    };
    number_of(rule, key)?;
    let list = rule.options().into_iter().find(|(name, _)| *name == BETAS).and_then(|(_, list)| list);
    let (Some(OptionValue::Numbers(mut list)), Some(number)) = (list, value.number()) else {
        return Err(OptionError::new(key, format!("expected a number, got {value}")));
    };
    list[place] = number;
    rule.set_option(BETAS, &OptionValue::Numbers(list))
}

/// The rule with another value for a number, or for a list of them, that its code can go on with.
///
/// # Errors
/// It is no number, out of range, or would need other code or a state that starts otherwise.
pub(crate) fn changed(rule: &dyn Rule, key: &str, value: &OptionValue) -> Result<Box<dyn Rule>, OptionError> {
    if !is_numeric(rule, key) {
        number_of(rule, key)?;
    }
    let mut next = rule.boxed();
    set(next.as_mut(), key, value)?;
    next.check_ranges().and_then(|()| next.check())?;
    match needs(rule, next.as_ref()) {
        Some(problem) => Err(OptionError::new(key, format!("cannot become {value} in the middle of a run: {problem}"))),
        None => Ok(next),
    }
}

/// What a rule with other numbers needs beyond the one whose code and state there are.
fn needs(rule: &dyn Rule, next: &dyn Rule) -> Option<&'static str> {
    let constants = |(old, new): (&(&str, bool), &(&str, bool))| new.1 && !old.1;
    if rule.constants().iter().zip(&next.constants()).any(constants) {
        return Some("it selects code that was left out");
    }
    let (old, new) = (rule.slots(), next.slots());
    if old.iter().zip(&new).any(|(old, new)| new.active && !old.active) {
        return Some("it needs a slot that was left out");
    }
    let starts = |slot: &crate::rule::Slot| (slot.initial.to_bits(), slot.in_new_rows.to_bits());
    if old.iter().map(starts).ne(new.iter().map(starts)) {
        return Some("it says what state starts from, and that has started");
    }
    None
}

/// The rule as its numbers' schedules have it after `t` steps.
pub(crate) fn at(rule: &dyn Rule, schedules: &BTreeMap<String, Schedule>, t: u64) -> Box<dyn Rule> {
    let mut at = rule.boxed();
    for (key, schedule) in schedules {
        if let Ok(base) = number_of(rule, key) {
            // That the rule takes it was looked at before.
            let _ = set(at.as_mut(), key, &OptionValue::Number(schedule.lr(t, base)));
        }
    }
    at
}

/// What a key of a schedule is called where it is not a rate's: `min_value` for `min_lr`.
pub(crate) fn value_key(key: &str) -> String {
    match key.strip_suffix("_lr") {
        Some(start) => format!("{start}_value"),
        None => key.to_owned(),
    }
}

/// Whether a number may have that schedule: `table` is where it stands, `lr_table` where the number does.
///
/// # Errors
/// The rule has no such number, the schedule is of a kind or with an option that cannot be used, or takes the number out of
/// its range.
pub(crate) fn check_schedule(
    rule: &dyn Rule,
    key: &str,
    schedule: &Schedule,
    table: &str,
    base_table: &str,
) -> Result<()> {
    let refuse = |problem: &str| Err(OptionError::new(key, problem).within(table));
    if key == "lr" {
        return refuse("the rate has a schedule of its own: [schedule], or a group's");
    }
    let base = number_of(rule, key).map_err(|e| e.within(table))?;
    let own = format!("{table}.{key}");
    if schedule.pieces().any(|kind| matches!(kind, Kind::Plateau(_))) {
        let problem = "\"plateau\" goes by losses, and is for rates";
        return Err(OptionError::new("kind", problem).within(own));
    }
    schedule.check_options().map_err(|e| OptionError::new(&value_key(&e.key), e.problem).within(&own))?;
    schedule.check_lr(base).map_err(|e| OptionError::new(key, e.problem).within(base_table))?;
    for t in schedule.corners() {
        let value = schedule.lr(t, base);
        changed(rule, key, &OptionValue::Number(value)).map_err(|e| {
            OptionError::new(key, format!("after {t} steps of its schedule: {}", e.problem)).within(table)
        })?;
    }
    Ok(())
}
