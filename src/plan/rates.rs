//! Learning rates and weight decays of the groups, as they can change at run time.

use super::Plan;
use crate::config::schedule::{Kind, LARGEST_LR, Plateau, PlateauState, Schedule, Starts, held};
use crate::error::{Error, Result};
use crate::options::OptionError;
use crate::options::range::NON_NEGATIVE;
use crate::rule::{Decay, Rule};

/// Rates of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupRates {
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Weight decay, of the kind the rule wants.
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

/// Rates of all groups.
#[derive(Debug, Clone)]
pub struct Rates {
    base: f64,
    schedule: Schedule,
    starts: Starts,
    groups: Vec<GroupRates>,
    /// By group, while the base rate is 0 and no rate tells it: its ratio to the base rate.
    ratios: Vec<Option<f64>>,
    plateau: PlateauState,
    configured: RatesState,
    /// By group.
    rules: Vec<RuleOf>,
}

/// What of a group's rule decides whether something can be set.
#[derive(Debug, Clone, Copy)]
struct RuleOf {
    name: &'static str,
    /// Whether it has a weight decay, be it 0.
    decays: bool,
}

impl RuleOf {
    fn of(rule: &dyn Rule) -> Self {
        let decays = rule.options().iter().any(|(key, _)| *key == "weight_decay") || rule.decay().lambda() != 0.0;
        Self { name: rule.name(), decays }
    }
}

/// Rates as they can be set at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct RatesState {
    /// `[optimizer].lr`.
    pub lr: f64,
    /// The optimizer's own rule and the configuration's groups.
    pub groups: Vec<GroupState>,
}

/// Rates of a group as they can be set at run time.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupState {
    /// The group's glob; `None` for the optimizer's own rule.
    pub pattern: Option<String>,
    /// Learning rate before the schedule.
    pub lr: f64,
    /// Weight decay, of the kind the rule wants.
    pub weight_decay: f64,
    /// The ratio to the base rate that comes back with it, while both are 0.
    pub ratio: Option<f64>,
}

impl Rates {
    /// The rates that the configuration asks for.
    pub fn new(plan: &Plan) -> Self {
        let groups = plan
            .groups
            .iter()
            .map(|g| GroupRates {
                lr: g.rule.lr(),
                decay: g.rule.decay(),
                scaled: g.rule.scaled_by_lr(),
                sign: if g.common.maximize { -1.0 } else { 1.0 },
            })
            .collect();
        let base = plan.groups[0].rule.lr();
        // Groups that are 0 with the base rate are so for want of a rate of their own.
        let ratio = |lr: f64| (base == 0.0 && lr == 0.0).then_some(1.0);
        let configured = plan.groups.iter().map(|g| GroupState {
            pattern: g.pattern.clone(),
            lr: g.rule.lr(),
            weight_decay: g.rule.decay().lambda(),
            ratio: ratio(g.rule.lr()),
        });
        let configured = RatesState { lr: base, groups: configured.collect() };
        Self {
            base,
            schedule: plan.schedule.clone(),
            starts: Starts::of(&plan.schedule),
            groups,
            ratios: configured.groups.iter().map(|g| g.ratio).collect(),
            plateau: PlateauState::default(),
            configured,
            rules: plan.groups.iter().map(|g| RuleOf::of(g.rule.as_ref())).collect(),
        }
    }

    /// The rates to go on with where `next` takes the place of `plan`. What was set at run time stays where the
    /// groups are the same; all else, the schedule too, is what the new configuration asks for.
    ///
    /// # Errors
    /// The new schedule cannot start from the base rate that was set.
    pub(crate) fn under(&self, plan: &Plan, next: &Plan) -> Result<Self> {
        let set = self.state().filter(|_| plan.same_groups(next));
        if let Some(set) = &set {
            next.schedule.check_tables(set.lr)?;
        }
        let mut rates = Self::new(next);
        rates.resume(set.as_ref(), self.plateau);
        Ok(rates)
    }

    /// The rates, if any was set at run time.
    pub fn state(&self) -> Option<RatesState> {
        let mut state = RatesState { lr: self.base, ..self.configured.clone() };
        for ((state, group), ratio) in state.groups.iter_mut().zip(&self.groups).zip(&self.ratios) {
            (state.lr, state.weight_decay, state.ratio) = (group.lr, group.decay.lambda(), *ratio);
        }
        (state != self.configured).then_some(state)
    }

    /// Goes on from rates that were set at run time, or else from those of the configuration, and, under a
    /// `plateau` schedule, from what one remembered.
    pub(crate) fn resume(&mut self, state: Option<&RatesState>, plateau: PlateauState) {
        let state = state.unwrap_or(&self.configured);
        self.base = state.lr;
        for ((group, ratio), state) in self.groups.iter_mut().zip(&mut self.ratios).zip(&state.groups) {
            group.lr = state.lr;
            group.decay = group.decay.with_lambda(state.weight_decay);
            *ratio = state.ratio.filter(|_| self.base == 0.0 && state.lr == 0.0);
        }
        self.plateau = self.watched().map_or(PlateauState::default(), |_| plateau);
    }

    /// The rates by group.
    pub fn groups(&self) -> &[GroupRates] {
        &self.groups
    }

    /// `[optimizer].lr` before the schedule.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// What the schedule multiplies every group's rate with for the step after `taken` steps. Under a base rate of 0,
    /// which no `min_lr` has a ratio to, it is what it would be without a `min_lr`. At most what takes the base rate to
    /// [`LARGEST_LR`].
    pub fn factor(&self, taken: u64) -> f64 {
        let base = self.reference();
        let factor = self.schedule.factor(&self.starts, taken, base);
        let factor = self.watched().map_or(factor, |plateau| factor * plateau.share(self.plateau.factor, base));
        let most = if self.base == 0.0 { LARGEST_LR } else { (LARGEST_LR / self.base).min(f64::MAX) };
        factor.min(most)
    }

    /// The rate of `[optimizer]` for the step after `taken` steps.
    pub fn lr(&self, taken: u64) -> f64 {
        held(self.base * self.factor(taken))
    }

    /// What rates and factors are kept apart by on the device: rates over it and factors times it are near 1 and near
    /// the rate, where f32 holds both. A power of two, so that neither loses a digit by it.
    pub(crate) fn unit(&self) -> f64 {
        if self.base == 0.0 { 1.0 } else { 2f64.powi((self.base.log2().floor() as i32).max(-1000)) }
    }

    /// The base rate that the schedule starts from. In place of 0 it is one beside which any `min_lr` is nothing, and
    /// a power of two, so that factors keep their digits.
    fn reference(&self) -> f64 {
        if self.base == 0.0 { 2f64.powi(700) } else { self.base }
    }

    /// The options of a `plateau` schedule, if it is one.
    fn watched(&self) -> Option<&Plateau> {
        match &self.schedule.kind {
            Kind::Plateau(plateau) => Some(plateau),
            _ => None,
        }
    }

    /// Takes in a loss, or whatever a `plateau` schedule should watch.
    ///
    /// # Errors
    /// The schedule is of another kind.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        let base = self.reference();
        let Kind::Plateau(plateau) = &self.schedule.kind else {
            let problem = format!("only \"plateau\" watches a loss, not {:?}", self.schedule.kind.name());
            return Err(OptionError::new("kind", problem).within("schedule"));
        };
        self.plateau.report(plateau, loss, base);
        Ok(())
    }

    /// What a `plateau` schedule remembers.
    pub fn plateau(&self) -> PlateauState {
        self.plateau
    }

    /// Whether [`Rates::set_lr`] can act: not under `one_cycle`, nor where no rule goes by its rate (`rprop`).
    pub fn goes_by_lr(&self) -> bool {
        self.check_set_lr().is_ok()
    }

    fn check_set_lr(&self) -> Result<(), OptionError> {
        self.schedule.check_set_lr()?;
        if self.groups.iter().any(|group| group.scaled) { Ok(()) } else { Err(self.first_step_only(0)) }
    }

    /// Sets the base rate; every group keeps its ratio to it, through a base rate of 0 too.
    ///
    /// # Errors
    /// The rate is negative or not finite, or a group's would be; or it should rise from 0, and a group has a rate
    /// of its own, set or configured beside a base rate of 0, and so no ratio. The schedule is `one_cycle`, whose rates
    /// are its own, or `geometric` and the rate 0; or no rule goes by it (`rprop`). Nothing is changed then.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_rate("optimizer", "lr", lr)?;
        self.schedule.check_tables(lr)?;
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
        }
        for ((group, ratio), next) in self.groups.iter_mut().zip(&mut self.ratios).zip(next) {
            // A ratio that no file could hold is as good as none that is larger.
            *ratio = (lr == 0.0).then(|| (group.lr / self.base).min(f64::MAX));
            group.lr = next;
        }
        self.base = lr;
        Ok(())
    }

    fn first_step_only(&self, group: usize) -> OptionError {
        let problem = format!("rule {:?} takes it as its first step size only", self.rules[group].name);
        OptionError::new("lr", problem)
    }

    fn table_of(&self, group: usize) -> String {
        self.configured.groups[group].pattern.as_ref().map_or("optimizer".to_owned(), |p| format!("groups.{p:?}"))
    }

    /// Sets one group's rate, and so its ratio to the base rate. Beside a base rate of 0 it has none, unless it is
    /// 0 and stays so.
    ///
    /// # Errors
    /// The rate is negative or not finite, or the group's rule does not go by it (`rprop`).
    pub fn set_group_lr(&mut self, group: usize, table: &str, lr: f64) -> Result<()> {
        check_rate(table, "lr", lr)?;
        if !self.groups[group].scaled {
            return Err(self.first_step_only(group).within(table));
        }
        self.groups[group].lr = lr;
        self.ratios[group] = (self.base == 0.0 && lr == 0.0).then_some(0.0);
        Ok(())
    }

    /// Sets one group's weight decay.
    ///
    /// # Errors
    /// λ is negative or not finite, or the group's rule has no weight decay (`rprop`).
    pub fn set_group_weight_decay(&mut self, group: usize, table: &str, lambda: f64) -> Result<()> {
        check_rate(table, "weight_decay", lambda)?;
        if !self.rules[group].decays {
            let problem = format!("rule {:?} has none", self.rules[group].name);
            return Err(OptionError::new("weight_decay", problem).within(table));
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
        if self.scaled { held(self.lr * factor) } else { 1.0 }
    }
}

fn check_rate(table: &str, key: &str, value: f64) -> Result<(), Error> {
    NON_NEGATIVE.check(key, value).map_err(|e| e.within(table))
}
