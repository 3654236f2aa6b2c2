//! What a checkpoint says besides tensors: counts, rules, rates, and the caller's own.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::Metadata;

use crate::config::schedule::PlateauState;
use crate::error::{Error, Result};
use crate::options::OptionValue;
use crate::plan::rates::{GroupState, RatesState};
use crate::state::OptimizerState;

/// What the metadata calls the format.
const FORMAT: &str = "wgpu-optim";
/// The versions that this library reads: what each writes in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Sums of micro-batches are of gradients times the loss scale.
    V2,
    /// They are without it. Numbers of groups may be set, and groups have schedules of their own.
    V3,
}

impl Version {
    /// The oldest that can hold the state: older readers refuse what they would take for something else.
    fn of(state: &OptimizerState) -> Self {
        let sums = state.loss_scale != 1.0 && state.sums().any(|sum| sum.iter().any(|x| *x != 0.0));
        let mut groups = state.rates.iter().flat_map(|rates| &rates.groups);
        if sums || !state.group_plateaus.is_empty() || groups.any(|group| !group.options.is_empty()) {
            Self::V3
        } else {
            Self::V2
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::V2 => "2",
            Self::V3 => "3",
        }
    }
}

/// Where the configuration stands.
const CONFIG: &str = "config";
/// What the caller's own keys start with. Names of tensors stand last in a key for the same reason: no name
/// makes one key of two.
const EXTRA: &str = "extra:";

/// Where the rule of a tensor stands.
pub fn rule_of(tensor: &str) -> String {
    format!("rule:{tensor}")
}

/// Where the steps that a tensor has taken stand.
pub fn steps_of(tensor: &str) -> String {
    format!("steps:{tensor}")
}

/// Shortest text that reads back as the same number.
fn exact(number: f64) -> String {
    format!("{number:?}")
}

/// Where the Σγ² of a tensor stands, if its rule has one.
fn weight_sum_of(tensor: &str) -> String {
    format!("weight_sum:{tensor}")
}

/// Where an option of a group stands that was set.
fn option_of(group: impl std::fmt::Display) -> String {
    format!("rates.{group}.option.")
}

/// Where what the `plateau` schedule of a group remembers stands.
fn group_plateau_of(what: &str, group: &str) -> String {
    format!("group_plateau.{what}:{group}")
}

/// All that the metadata of a checkpoint holds.
pub fn write(state: &OptimizerState, params: bool, extra: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut pairs = vec![
        ("format".to_owned(), FORMAT.to_owned()),
        ("version".to_owned(), Version::of(state).text().to_owned()),
        ("parameters".to_owned(), params.to_string()),
        ("steps_taken".to_owned(), state.steps_taken.to_string()),
        ("steps_skipped".to_owned(), state.steps_skipped.to_string()),
        ("micro_batches".to_owned(), state.micro_batches.to_string()),
        ("loss_scale".to_owned(), exact(state.loss_scale)),
        ("loss_scale.dynamic".to_owned(), state.dynamic_scale.to_string()),
        ("good_steps".to_owned(), state.good_steps.to_string()),
        ("plateau.factor".to_owned(), exact(state.plateau.factor)),
        ("plateau.bad_reports".to_owned(), state.plateau.bad_reports.to_string()),
        ("plateau.cooldown".to_owned(), state.plateau.cooldown.to_string()),
    ];
    pairs.extend(state.ema_interval.map(|interval| ("ema.interval".to_owned(), interval.to_string())));
    // A reader that does not know the key passes it over: no reason for another version.
    pairs.extend(state.config.iter().map(|config| (CONFIG.to_owned(), config.clone())));
    pairs.extend(state.plateau.best.map(|best| ("plateau.best".to_owned(), exact(best))));
    if let Some(rates) = &state.rates {
        pairs.push(("rates.lr".to_owned(), exact(rates.lr)));
        pairs.push(("rates.groups".to_owned(), rates.groups.len().to_string()));
        for (index, group) in rates.groups.iter().enumerate() {
            pairs.extend(group.pattern.iter().map(|p| (format!("rates.{index}.match"), p.clone())));
            pairs.push((format!("rates.{index}.lr"), exact(group.lr)));
            pairs.push((format!("rates.{index}.weight_decay"), exact(group.weight_decay)));
            pairs.extend(group.ratio.map(|ratio| (format!("rates.{index}.ratio"), exact(ratio))));
            let options = group.options.iter();
            pairs.extend(options.map(|(key, value)| (option_of(index) + key, value.to_string())));
        }
    }
    for (group, plateau) in &state.group_plateaus {
        pairs.push((group_plateau_of("factor", group), exact(plateau.factor)));
        pairs.push((group_plateau_of("bad_reports", group), plateau.bad_reports.to_string()));
        pairs.push((group_plateau_of("cooldown", group), plateau.cooldown.to_string()));
        pairs.extend(plateau.best.map(|best| (group_plateau_of("best", group), exact(best))));
    }
    for tensor in &state.tensors {
        pairs.push((rule_of(&tensor.name), tensor.rule.clone()));
        pairs.push((steps_of(&tensor.name), tensor.steps.to_string()));
        if tensor.weight_sum.to_bits() != 0 {
            pairs.push((weight_sum_of(&tensor.name), exact(tensor.weight_sum)));
        }
    }
    pairs.extend(extra.iter().map(|(key, value)| (format!("{EXTRA}{key}"), value.clone())));
    pairs.into_iter().collect()
}

/// The metadata of a file, and all that is wrong with what was read of it.
pub struct Reader<'a> {
    map: &'a HashMap<String, String>,
    pub version: Version,
    pub problems: Vec<String>,
}

impl<'a> Reader<'a> {
    /// # Errors
    /// It is no checkpoint, or one of a version that nobody here can read.
    pub fn new(header: &'a Metadata) -> Result<Self> {
        let invalid = |problem: String| Err(Error::Safetensors(problem));
        let Some(map) = header.metadata().as_ref() else {
            return invalid("no metadata: not an optimizer state".to_owned());
        };
        if map.get("format").map(String::as_str) != Some(FORMAT) {
            return invalid("not a wgpu-optim state: the metadata's \"format\" says otherwise".to_owned());
        }
        let given = map.get("version").map_or("", String::as_str);
        match [Version::V2, Version::V3].into_iter().find(|version| version.text() == given) {
            Some(version) => Ok(Self { map, version, problems: Vec::new() }),
            None => invalid(format!("version {given:?} of the state, expected \"2\" or \"3\"")),
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The configuration, if it stands there.
    pub fn config(&self) -> Option<String> {
        self.map.get(CONFIG).cloned()
    }

    /// Whether the file holds parameters.
    pub fn has_params(&mut self) -> bool {
        self.is_true("parameters").unwrap_or(false)
    }

    fn is_true(&mut self, key: &str) -> Option<bool> {
        match self.map.get(key)?.as_str() {
            "false" => Some(false),
            "true" => Some(true),
            other => {
                self.problems.push(format!("metadata {key:?} is {other:?}, not true or false"));
                None
            }
        }
    }

    pub fn text(&mut self, key: &str) -> &'a str {
        self.map.get(key).map(String::as_str).unwrap_or_else(|| {
            self.problems.push(format!("metadata lacks {key:?}"));
            ""
        })
    }

    fn parsed<T: std::str::FromStr + Default>(&mut self, key: &str, what: &str, allowed: impl Fn(&T) -> bool) -> T {
        let before = self.problems.len();
        let value = self.text(key);
        if self.problems.len() > before {
            return T::default();
        }
        value.parse().ok().filter(allowed).unwrap_or_else(|| {
            self.problems.push(format!("metadata {key:?} is {value:?}, not {what}"));
            T::default()
        })
    }

    pub fn count(&mut self, key: &str) -> u64 {
        // The GPU counts in 32 bits.
        self.parsed::<u32>(key, "a count", |_| true).into()
    }

    /// A count that only the host keeps.
    fn long_count(&mut self, key: &str) -> u64 {
        self.parsed(key, "a count", |_| true)
    }

    fn number(&mut self, key: &str) -> f64 {
        self.parsed(key, "a number", |x: &f64| x.is_finite())
    }

    /// A number that may be infinite, such as the best figure of a run that met its target exactly.
    fn figure(&mut self, key: &str) -> f64 {
        self.parsed(key, "a number", |x: &f64| !x.is_nan())
    }

    /// 0 where there is none.
    pub fn weight_sum(&mut self, tensor: &str) -> f64 {
        let key = weight_sum_of(tensor);
        if self.has(&key) { self.number(&key) } else { 0.0 }
    }

    /// The state without its tensors.
    pub fn state(&mut self) -> OptimizerState {
        let loss_scale = self.number("loss_scale");
        OptimizerState {
            steps_taken: self.count("steps_taken"),
            steps_skipped: self.count("steps_skipped"),
            micro_batches: self.count("micro_batches"),
            loss_scale,
            // Files written before it was told say 1 where there was none.
            dynamic_scale: self.is_true("loss_scale.dynamic").unwrap_or(loss_scale != 1.0),
            good_steps: self.count("good_steps"),
            ema_interval: self.has("ema.interval").then(|| self.long_count("ema.interval")),
            plateau: self.plateau(|what| format!("plateau.{what}")),
            config: self.config(),
            rates: self.has("rates.lr").then(|| self.rates()),
            group_plateaus: self.group_plateaus(),
            ..OptimizerState::default()
        }
    }

    fn plateau(&mut self, key: impl Fn(&str) -> String) -> PlateauState {
        let best = key("best");
        PlateauState {
            factor: self.number(&key("factor")),
            best: self.has(&best).then(|| self.figure(&best)),
            bad_reports: self.long_count(&key("bad_reports")),
            cooldown: self.long_count(&key("cooldown")),
        }
    }

    fn group_plateaus(&mut self) -> BTreeMap<String, PlateauState> {
        let factor = group_plateau_of("factor", "");
        let groups: Vec<String> =
            self.map.keys().filter_map(|key| key.strip_prefix(&factor)).map(str::to_owned).collect();
        let one = |group: String| {
            let plateau = self.plateau(|what| group_plateau_of(what, &group));
            (group, plateau)
        };
        groups.into_iter().map(one).collect()
    }

    /// Options of a group that were set.
    fn options(&mut self, group: u64) -> BTreeMap<String, OptionValue> {
        let prefix = option_of(group);
        let mut options = BTreeMap::new();
        for (whole, text) in self.map {
            let Some(key) = whole.strip_prefix(&prefix) else { continue };
            match OptionValue::from_text(text) {
                Some(value) => {
                    options.insert(key.to_owned(), value);
                }
                None => {
                    self.problems.push(format!("metadata {whole:?} is {text:?}, not a number or a list of numbers"))
                }
            }
        }
        options
    }

    fn rates(&mut self) -> RatesState {
        let count = self.count("rates.groups");
        // No more than the file has keys for, whatever it claims.
        let there = (0..count).take_while(|i| self.has(&format!("rates.{i}.lr"))).count() as u64;
        if there < count {
            self.problems.push(format!("metadata lacks the rates of group {there} of {count}"));
        }
        let groups = (0..there).map(|i| {
            let ratio = format!("rates.{i}.ratio");
            GroupState {
                pattern: self.map.get(&format!("rates.{i}.match")).cloned(),
                lr: self.number(&format!("rates.{i}.lr")),
                weight_decay: self.number(&format!("rates.{i}.weight_decay")),
                ratio: self.has(&ratio).then(|| self.number(&ratio)),
                options: self.options(i),
            }
        });
        let groups = groups.collect();
        RatesState { lr: self.number("rates.lr"), groups }
    }

    /// What the caller added.
    pub fn extra(&self) -> BTreeMap<String, String> {
        let own = |(key, value): (&String, &String)| Some((key.strip_prefix(EXTRA)?.to_owned(), value.clone()));
        self.map.iter().filter_map(own).collect()
    }
}
