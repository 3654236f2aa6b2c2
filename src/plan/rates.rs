//! Learning rates, weight decays and the other numbers of the groups, as they can change at run time.

mod numbers;
mod running;
mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Plan;
use crate::config::schedule::{PlateauState, held};
use crate::error::{Error, Result};
use crate::options::OptionError;
use crate::options::range::NON_NEGATIVE;
use crate::rule::Decay;

use numbers::Numbers;
use running::Running;
pub(crate) use saved::Saved;
pub use saved::{GroupState, RatesState};

/// Rates of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupRates {
    /// Learning rate before the schedule.
    pub lr: f64,
    /// What multiplies it last of all.
    pub scale: f64,
    /// Weight decay, of the kind the rule wants, before a schedule of its own.
    pub decay: Decay,
    /// Whether the learning rate multiplies the direction.
    pub scaled: bool,
    /// What the gradient is multiplied with: −1 maximises.
    pub sign: f64,
}

/// λ of each kind of decay, all but one of them 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Decays {
    /// Added to the gradient.
    pub coupled: f64,
    /// Beside the step.
    pub decoupled: f64,
    /// Within the update whose norm is measured.
    pub in_ratio: f64,
}

/// Rates and other numbers of all groups.
#[derive(Debug, Clone)]
pub struct Rates {
    base: f64,
    /// `[schedule]`.
    schedule: Running,
    groups: Vec<GroupRates>,
    /// By group, while the base rate is 0 and no rate tells it: its ratio to the base rate.
    ratios: Vec<Option<f64>>,
    configured: RatesState,
    /// By group, what else of it can change. Clones share it until one changes.
    numbers: Arc<Vec<Numbers>>,
}

impl Rates {
    /// The rates that the configuration asks for.
    pub fn new(plan: &Plan) -> Self {
        let groups = plan
            .groups
            .iter()
            .map(|g| GroupRates {
                lr: g.rule.lr(),
                scale: g.lr_scale,
                decay: g.rule.decay(),
                scaled: g.rule.scaled_by_lr(),
                sign: if g.common.maximize { -1.0 } else { 1.0 },
            })
            .collect();
        let base = plan.groups[0].rule.lr();
        // Groups that are 0 with the base rate are so for want of a rate of their own.
        let ratio = |lr: f64| (base == 0.0 && lr == 0.0).then_some(1.0);
        let configured = plan.groups.iter().map(|g| GroupState {
            pattern: g.label().map(str::to_owned),
            lr: g.rule.lr(),
            weight_decay: g.rule.decay().lambda(),
            ratio: ratio(g.rule.lr()),
            options: BTreeMap::new(),
        });
        let configured = RatesState { lr: base, groups: configured.collect() };
        Self {
            base,
            schedule: Running::of(&plan.schedule),
            groups,
            ratios: configured.groups.iter().map(|g| g.ratio).collect(),
            configured,
            numbers: Arc::new(plan.groups.iter().map(Numbers::of).collect()),
        }
    }

    /// The rates by group.
    pub fn groups(&self) -> &[GroupRates] {
        &self.groups
    }

    /// `[optimizer].lr` before the schedule.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// What `[schedule]` multiplies the rates under it with for the step after `taken` steps. Under a base rate of 0,
    /// which no `min_lr` has a ratio to, it is what it would be without a `min_lr`. At most what takes the base rate to
    /// [`LARGEST_LR`](crate::schedule::LARGEST_LR).
    pub fn factor(&self, taken: u64) -> f64 {
        self.schedule.factor(taken, self.base)
    }

    /// The rate of `[optimizer]` for the step after `taken` steps.
    pub fn lr(&self, taken: u64) -> f64 {
        held(self.base * self.factor(taken))
    }

    /// The rate of a group for the step after `taken` steps, with all that is in it.
    pub fn group_lr(&self, group: usize, taken: u64) -> f64 {
        self.groups[group].lr_under(self.factor_of(group, taken))
    }

    /// [`Rates::factor`] of the schedule that a group is under.
    pub(crate) fn factor_of(&self, group: usize, taken: u64) -> f64 {
        match &self.numbers[group].schedule {
            None => self.factor(taken),
            Some(own) => own.factor(taken, self.groups[group].lr),
        }
    }

    /// Whether a group has a schedule of its own.
    pub(crate) fn has_own_schedule(&self, group: usize) -> bool {
        self.numbers[group].schedule.is_some()
    }

    /// What rates and factors of a group are kept apart by on the device: rates over it and factors times it are near 1
    /// and near the rate, where f32 holds both. A power of two, so that neither loses a digit by it.
    pub(crate) fn unit_of(&self, group: usize) -> f64 {
        let base = if self.has_own_schedule(group) { self.groups[group].lr } else { self.base };
        if base == 0.0 { 1.0 } else { 2f64.powi((base.log2().floor() as i32).max(-1000)) }
    }

    /// Takes in a loss, or whatever `plateau` schedules should watch: each of them remembers for itself.
    ///
    /// # Errors
    /// No schedule is of that kind.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        let any_own = self.numbers.iter().any(Numbers::watches);
        if !any_own && self.schedule.watched().is_none() {
            let problem = format!("only \"plateau\" watches a loss, not {:?}", self.schedule.of.kind.name());
            return Err(OptionError::new("kind", problem).within("schedule"));
        }
        self.schedule.report(loss, self.base);
        if any_own {
            for (numbers, group) in Arc::make_mut(&mut self.numbers).iter_mut().zip(&self.groups) {
                numbers.schedule.iter_mut().for_each(|own| own.report(loss, group.lr));
            }
        }
        self.touch_rates();
        Ok(())
    }

    /// What a `plateau` schedule of `[schedule]` remembers.
    pub fn plateau(&self) -> PlateauState {
        self.schedule.plateau
    }

    /// Whether [`Rates::set_lr`] can act: not under `one_cycle`, nor where no rule goes by its rate (`rprop`).
    pub fn goes_by_lr(&self) -> bool {
        self.check_set_lr().is_ok()
    }

    fn check_set_lr(&self) -> Result<(), OptionError> {
        self.schedule.of.check_set_lr()?;
        if self.groups.iter().any(|group| group.scaled) { Ok(()) } else { Err(self.first_step_only(0)) }
    }

    /// Sets the base rate; every group keeps its ratio to it, through a base rate of 0 too, those under schedules of their
    /// own among them.
    ///
    /// # Errors
    /// The rate is negative or not finite, or a group's would be; or it should rise from 0, and a group has a rate
    /// of its own, set or configured beside a base rate of 0, and so no ratio. The schedule is `one_cycle`, whose rates
    /// are its own, or `geometric` and the rate 0; or no rule goes by it (`rprop`). Nothing is changed then.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_rate("optimizer", "lr", lr)?;
        self.schedule.of.check_tables("schedule", "optimizer", lr)?;
        self.check_set_lr().map_err(|e| e.within("optimizer"))?;
        if lr == self.base {
            return Ok(());
        }
        let mut next = Vec::with_capacity(self.groups.len());
        for (index, group) in self.groups.iter().enumerate() {
            next.push(match self.ratios[index] {
                _ if index == 0 => lr,
                _ if self.base != 0.0 => group.lr * (lr / self.base),
                Some(ratio) => ratio * lr,
                None => {
                    let problem = "groups have no ratio to a base rate of 0; set theirs with set_group_lr";
                    return Err(OptionError::new("lr", problem).within("optimizer"));
                }
            });
            check_rate(&self.table_of(index), "lr", next[index])?;
            if let Some(own) = &self.numbers[index].schedule {
                own.of.check_lr(next[index]).map_err(|e| e.within(self.table_of(index)))?;
            }
        }
        for ((group, ratio), next) in self.groups.iter_mut().zip(&mut self.ratios).zip(next) {
            // A ratio that no file could hold is as good as none that is larger.
            *ratio = (lr == 0.0).then(|| (group.lr / self.base).min(f64::MAX));
            group.lr = next;
        }
        self.base = lr;
        self.touch_rates();
        Ok(())
    }

    fn first_step_only(&self, group: usize) -> OptionError {
        let problem = format!("rule {:?} takes it as its first step size only", self.numbers[group].rule.name());
        OptionError::new("lr", problem)
    }

    fn table_of(&self, group: usize) -> String {
        self.configured.groups[group].pattern.as_ref().map_or("optimizer".to_owned(), |p| format!("groups.{p:?}"))
    }

    /// Sets one group's rate before its schedule, and so its ratio to the base rate. Beside a base rate of 0 it has none,
    /// unless it is 0 and stays so. Its `lr_scale` stays.
    ///
    /// # Errors
    /// The rate is negative or not finite, the group's rule does not go by it (`rprop`), or a schedule of its own cannot
    /// start from it (`geometric` from 0) or has rates of its own (`one_cycle`).
    pub fn set_group_lr(&mut self, group: usize, table: &str, lr: f64) -> Result<()> {
        check_rate(table, "lr", lr)?;
        if !self.groups[group].scaled {
            return Err(self.first_step_only(group).within(table));
        }
        if let Some(own) = &self.numbers[group].schedule {
            own.of.check_lr(lr).map_err(|e| e.within(table))?;
            if own.of.check_set_lr().is_err() {
                let problem =
                    "cannot be set with a schedule \"one_cycle\" of the group's own, whose rates are its own (max_lr)";
                return Err(OptionError::new("lr", problem).within(table));
            }
        }
        self.groups[group].lr = lr;
        self.ratios[group] = (self.base == 0.0 && lr == 0.0).then_some(0.0);
        self.touch_rates();
        Ok(())
    }

    /// Sets one group's weight decay, before a schedule of its own.
    ///
    /// # Errors
    /// λ is negative or not finite, or one that its schedule cannot start from, or the group's rule has no weight decay
    /// (`rprop`).
    pub fn set_group_weight_decay(&mut self, group: usize, table: &str, lambda: f64) -> Result<()> {
        check_rate(table, "weight_decay", lambda)?;
        if !self.numbers[group].decays {
            let problem = format!("rule {:?} has none", self.numbers[group].rule.name());
            return Err(OptionError::new("weight_decay", problem).within(table));
        }
        if let Some(schedule) = self.numbers[group].decay_schedule() {
            schedule.check_lr(lambda).map_err(|e| OptionError::new("weight_decay", e.problem).within(table))?;
            self.touch(group);
        }
        let decay = &mut self.groups[group].decay;
        *decay = decay.with_lambda(lambda);
        Ok(())
    }
}

impl GroupRates {
    /// λ by kind.
    pub(crate) fn decays(&self) -> Decays {
        match self.decay {
            Decay::Coupled(coupled) => Decays { coupled, ..Decays::default() },
            Decay::Decoupled(decoupled) => Decays { decoupled, ..Decays::default() },
            Decay::InRatio(in_ratio) => Decays { in_ratio, ..Decays::default() },
        }
    }

    /// What multiplies the direction, for that factor of the schedule.
    pub(crate) fn step_lr(&self, factor: f64) -> f64 {
        if self.scaled { self.lr_under(factor) } else { 1.0 }
    }

    fn lr_under(&self, factor: f64) -> f64 {
        held(self.lr * factor * self.scale)
    }
}

fn check_rate(table: &str, key: &str, value: f64) -> Result<(), Error> {
    NON_NEGATIVE.check(key, value).map_err(|e| e.within(table))
}
