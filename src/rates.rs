//! Learning rates and weight decays of the groups, as they can change at run time.

use crate::options::check;
use crate::rule::Decay;
use crate::schedule::{Kind, PlateauState, Schedule};
use crate::step::Plan;
use crate::{Error, OptionError, Result};

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
    groups: Vec<GroupRates>,
    plateau: PlateauState,
    configured: RatesState,
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
        let configured = plan.groups.iter().map(|g| GroupState {
            pattern: g.pattern.clone(),
            lr: g.rule.lr(),
            weight_decay: g.rule.decay().lambda(),
        });
        Self {
            base: plan.groups[0].rule.lr(),
            schedule: plan.schedule.clone(),
            groups,
            plateau: PlateauState::default(),
            configured: RatesState { lr: plan.groups[0].rule.lr(), groups: configured.collect() },
        }
    }

    /// The rates, if any was set at run time.
    pub fn state(&self) -> Option<RatesState> {
        let mut state = RatesState { lr: self.base, ..self.configured.clone() };
        for (state, group) in state.groups.iter_mut().zip(&self.groups) {
            (state.lr, state.weight_decay) = (group.lr, group.decay.lambda());
        }
        (state != self.configured).then_some(state)
    }

    /// Goes on from rates that were set at run time, or else from those of the configuration, and from what a
    /// `plateau` schedule remembered.
    pub(crate) fn resume(&mut self, state: Option<&RatesState>, plateau: PlateauState) {
        let state = state.unwrap_or(&self.configured);
        self.base = state.lr;
        for (group, state) in self.groups.iter_mut().zip(&state.groups) {
            group.lr = state.lr;
            group.decay = group.decay.with_lambda(state.weight_decay);
        }
        self.plateau = plateau;
    }

    /// The rates by group.
    pub fn groups(&self) -> &[GroupRates] {
        &self.groups
    }

    /// `[optimizer].lr` before the schedule.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// What the schedule multiplies every group's rate with for the step after `taken` steps.
    pub fn factor(&self, taken: u64) -> f64 {
        if self.base == 0.0 { 1.0 } else { self.schedule.lr(taken, self.base) / self.base * self.plateau.factor }
    }

    /// Takes in a loss, or whatever a `plateau` schedule should watch.
    ///
    /// # Errors
    /// The schedule is of another kind.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        let Kind::Plateau(plateau) = &self.schedule.kind else {
            let problem = format!("only \"plateau\" watches a loss, not {:?}", self.schedule.kind);
            return Err(OptionError::new("kind", problem).within("schedule"));
        };
        self.plateau.report(plateau, loss, self.base);
        Ok(())
    }

    /// What a `plateau` schedule remembers.
    pub fn plateau(&self) -> PlateauState {
        self.plateau
    }

    /// Sets the base rate; every group keeps its ratio to it.
    ///
    /// # Errors
    /// The rate is negative or not finite, or it should rise from 0, where ratios are lost.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_rate("optimizer", "lr", lr)?;
        self.schedule.check(lr).map_err(|e| e.within("schedule"))?;
        if self.base == 0.0 && lr != 0.0 && self.groups.iter().any(|g| g.lr != 0.0) {
            let problem = "groups have no ratio to a base rate of 0; set theirs with set_group_lr";
            return Err(OptionError::new("lr", problem).within("optimizer"));
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.lr = if self.base == 0.0 || index == 0 { lr } else { group.lr * (lr / self.base) };
        }
        self.base = lr;
        Ok(())
    }

    /// Sets one group's rate.
    ///
    /// # Errors
    /// The rate is negative or not finite.
    pub fn set_group_lr(&mut self, group: usize, table: &str, lr: f64) -> Result<()> {
        check_rate(table, "lr", lr)?;
        self.groups[group].lr = lr;
        Ok(())
    }

    /// Sets one group's weight decay.
    ///
    /// # Errors
    /// λ is negative or not finite.
    pub fn set_group_weight_decay(&mut self, group: usize, table: &str, lambda: f64) -> Result<()> {
        check_rate(table, "weight_decay", lambda)?;
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
        if self.scaled { self.lr * factor } else { 1.0 }
    }
}

fn check_rate(table: &str, key: &str, value: f64) -> Result<(), Error> {
    check::non_negative(key, value).map_err(|e| e.within(table))
}
