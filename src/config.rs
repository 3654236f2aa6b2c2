//! What the user asks for: a rule, groups, conditioning, a schedule.

use std::collections::BTreeMap;

#[cfg(feature = "serde")]
use crate::error::Error;
use crate::error::Result;
use crate::options::{OptionError, OptionValue, Options, unknown_key};
use crate::rule::{Reduction, Rule};
use crate::rules;
use crate::storage::{Format, StorageConfig};

#[cfg(feature = "serde")]
mod document;
mod ema;
mod glob;
pub(crate) mod gradient;
mod group;
mod health;
pub(crate) mod loss_scale;
mod noise;
pub(crate) mod numbers;
pub mod schedule;
#[cfg(feature = "serde")]
mod serialize;
mod tables;
mod weights;

pub use ema::EmaConfig;
pub(crate) use glob::Glob;
pub use gradient::{GradientConfig, OnNonfinite};
pub use group::Group;
pub(crate) use group::{Resolved, THE_REST};
pub(crate) use health::Due;
pub use health::HealthConfig;
pub use loss_scale::{DynamicScale, LossScale};
pub use noise::NoiseConfig;
pub use schedule::Schedule;
pub use tables::Difference;
pub use weights::WeightsConfig;

/// The whole configuration of an optimizer. With the `serde` feature it is read from any format,
/// such as TOML, in the shape that `docs/configuration.md` lists, and written in the same.
///
/// ```
/// use wgpu_optim::{Group, OptimizerConfig, rules::AdamW, schedule::Cosine};
///
/// let config = OptimizerConfig::new(AdamW { lr: 3e-4, ..AdamW::default() })
///     .group(Group::matching("*.bias").set("weight_decay", 0.0))
///     .clip_global_norm(1.0)
///     .schedule(Cosine { total_steps: 10_000, min_lr: 1e-5 });
/// # config.check().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct OptimizerConfig {
    /// The rule of every tensor that no group claims.
    pub rule: Box<dyn Rule>,
    /// Groups of tensors with options of their own; the first that matches a name wins.
    pub groups: Vec<Group>,
    /// Gradient conditioning.
    pub gradient: GradientConfig,
    /// Limits of the parameters.
    pub weights: WeightsConfig,
    /// Moving average of the weights, if one is kept.
    pub ema: Option<EmaConfig>,
    /// Noise after each step, if any is added.
    pub noise: Option<NoiseConfig>,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// Other numbers of the rule over the steps, by their names, see [`OptimizerConfig::option_schedule`].
    pub schedules: BTreeMap<String, Schedule>,
    /// Options that every rule has.
    pub common: CommonOptions,
    /// How numbers lie in memory.
    pub storage: StorageConfig,
}

crate::options! {
    /// Options that the engine adds to every rule, in the same tables as the rule's own.
    pub struct CommonOptions {
        /// Ascend instead of descend: the rule sees the negated gradient, decay apart.
        pub maximize: bool = false,
        /// Move only elements whose direction agrees with the gradient in sign, further by
        /// n / (kept + 1) (Liang et al. 2024). For rules that need no norm of their own update.
        pub cautious: bool = false,
    }
}

impl OptimizerConfig {
    /// That rule for every tensor: non-finite gradients skip the step, nothing is clipped, the rate
    /// is constant.
    pub fn new(rule: impl Rule + 'static) -> Self {
        Self::from_boxed(Box::new(rule))
    }

    /// [`OptimizerConfig::new`] for a rule behind a box.
    pub fn from_boxed(rule: Box<dyn Rule>) -> Self {
        Self {
            rule,
            groups: Vec::new(),
            gradient: GradientConfig::default(),
            weights: WeightsConfig::default(),
            ema: None,
            noise: None,
            schedule: Schedule::default(),
            schedules: BTreeMap::new(),
            common: CommonOptions::default(),
            storage: StorageConfig::default(),
        }
    }

    /// Adds a group; the first that matches a tensor wins, and each must have one.
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Replaces the gradient conditioning, but for the limit that [`OptimizerConfig::clip_global_norm`] has set: it stays
    /// where this conditioning has none, so that the two can be called in either order.
    pub fn gradient(mut self, gradient: GradientConfig) -> Self {
        let limit = self.gradient.clip_global_norm;
        self.gradient = gradient;
        self.gradient.clip_global_norm = self.gradient.clip_global_norm.or(limit);
        self
    }

    /// Clips all gradients to a global norm.
    pub fn clip_global_norm(mut self, limit: f64) -> Self {
        self.gradient.clip_global_norm = Some(limit);
        self
    }

    /// Replaces the weight limits.
    pub fn weights(mut self, weights: WeightsConfig) -> Self {
        self.weights = weights;
        self
    }

    /// Keeps a moving average of the weights.
    pub fn ema(mut self, ema: EmaConfig) -> Self {
        self.ema = Some(ema);
        self
    }

    /// Adds noise after each step.
    pub fn noise(mut self, noise: NoiseConfig) -> Self {
        self.noise = Some(noise);
        self
    }

    /// Replaces the storage.
    pub fn storage(mut self, storage: StorageConfig) -> Self {
        self.storage = storage;
        self
    }

    /// Replaces the schedule.
    pub fn schedule(mut self, schedule: impl Into<Schedule>) -> Self {
        self.schedule = schedule.into();
        self
    }

    /// Gives a number of the rule a schedule: any numeric option but `lr`, with `beta1`, `beta2` and `beta3` for the members
    /// of `betas`. It takes the place of the rate in the schedule, `min_lr` and `max_lr` included, and goes by the steps that
    /// a tensor has taken. It acts where groups have the option from here: not under a rule of their own, nor where they
    /// set it themselves.
    pub fn option_schedule(mut self, key: impl Into<String>, schedule: impl Into<Schedule>) -> Self {
        self.schedules.insert(key.into(), schedule.into());
        self
    }

    /// Whether everything that does not depend on the tensors can be used.
    ///
    /// # Errors
    /// The first option that cannot, by table and key, and what is allowed.
    pub fn check(&self) -> Result<()> {
        check_rule(self.rule.as_ref(), &self.common).map_err(|e| e.within("optimizer"))?;
        self.storage.check().map_err(|e| e.within("storage"))?;
        check_average(&self.storage, self).map_err(|e| e.within("storage"))?;
        for (key, schedule) in &self.schedules {
            numbers::check_schedule(self.rule.as_ref(), key, schedule, "schedules", "optimizer")?;
        }
        group::check_names(&self.groups)?;
        if let Some(noise) = &self.noise {
            noise.check().map_err(|e| e.within("noise"))?;
            noise::check_rule(self.rule.as_ref()).map_err(|e| e.within("optimizer"))?;
        }
        for group in &self.groups {
            group.resolve(self)?;
        }
        self.weights.check().map_err(|e| e.within("weights"))?;
        if let Some(ema) = &self.ema {
            ema.check().map_err(|e| e.within("ema"))?;
        }
        self.gradient.check().map_err(|e| e.within("gradient"))?;
        self.schedule.check_tables("schedule", "optimizer", self.rule.lr())
    }

    /// Whether the schedule has a rule to act on: `rprop` sizes its steps itself, and goes on as if there were none.
    /// [`OptimizerConfig::check`] lets that pass, for programs that put any rule under one schedule.
    ///
    /// # Errors
    /// There is a schedule other than a constant rate, and no rule goes by its rate.
    pub fn check_schedule(&self) -> Result<()> {
        let groups = self.groups.iter().filter(|group| !group.frozen).filter_map(|group| group.rule.as_deref());
        let mut rules = std::iter::once(self.rule.as_ref()).chain(groups);
        if !self.schedule.changes_rates() || rules.any(Rule::scaled_by_lr) {
            return Ok(());
        }
        let problem = format!("acts on nothing: rule {:?} takes lr as its first step size only", self.rule.name());
        Err(OptionError::new("kind", problem).within("schedule"))
    }

    /// The rule of that name with its default options.
    ///
    /// # Errors
    /// [`Error::UnknownRule`].
    pub fn named(rule: &str) -> Result<Self> {
        Ok(Self::from_boxed(rules::by_name(rule)?))
    }
}

/// Sets an option of a rule or one that every rule has. An unknown key lists both, and the others that the
/// table may have.
fn set_option(
    rule: &mut dyn Rule,
    common: &mut CommonOptions,
    key: &str,
    value: &OptionValue,
    others: &[&'static str],
) -> Result<(), OptionError> {
    if common.options().iter().any(|(name, _)| *name == key) {
        return common.set_option(key, value);
    }
    let mut known: Vec<_> = rule.options().into_iter().map(|(name, _)| name).collect();
    if known.contains(&key) {
        return rule.set_option(key, value);
    }
    known.extend(common.options().into_iter().map(|(name, _)| name));
    known.extend(others);
    Err(OptionError::new(key, unknown_key(&known)))
}

fn check_rule(rule: &dyn Rule, common: &CommonOptions) -> Result<(), OptionError> {
    rule.check_ranges()?;
    rule.check()?;
    group::check_reserved(rule)?;
    if common.cautious && rule.reduction() != Reduction::None {
        let problem = format!("rule {:?} makes its own step and takes no mask", rule.name());
        return Err(OptionError::new("cautious", problem));
    }
    Ok(())
}

/// An average is swapped with the weights and back, which 16 bits would round for good.
fn check_average(storage: &StorageConfig, config: &OptimizerConfig) -> Result<(), OptionError> {
    let resolved = storage.resolve();
    if config.ema.is_some() && resolved.params != Format::F32 && !resolved.master {
        return Err(OptionError::new("master", "[ema] with 16-bit params needs master = \"f32\""));
    }
    Ok(())
}

/// Sets options from a table of a configuration.
#[cfg(feature = "serde")]
fn set_all<'a>(
    table: &str,
    options: &mut dyn Options,
    values: impl IntoIterator<Item = (&'a String, &'a OptionValue)>,
) -> Result<(), Error> {
    for (key, value) in values {
        options.set_option(key, value).map_err(|e| e.within(table))?;
    }
    Ok(())
}
