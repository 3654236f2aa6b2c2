//! A schedule under which rates are, with what it remembers.

use crate::config::schedule::{Kind, LARGEST_LR, Plateau, PlateauState, Schedule, Starts};

/// A schedule as a run goes through it.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub of: Schedule,
    starts: Starts,
    pub plateau: PlateauState,
}

impl Running {
    pub fn of(schedule: &Schedule) -> Self {
        Self { of: schedule.clone(), starts: Starts::of(schedule), plateau: PlateauState::default() }
    }

    /// The options of a `plateau` schedule, if it is one.
    pub fn watched(&self) -> Option<&Plateau> {
        match &self.of.kind {
            Kind::Plateau(plateau) => Some(plateau),
            _ => None,
        }
    }

    /// What it remembers, if it is a `plateau`.
    pub fn remembered(&self) -> Option<PlateauState> {
        self.watched().map(|_| self.plateau)
    }

    /// Goes on from what it remembered.
    pub fn resume(&mut self, plateau: PlateauState) {
        self.plateau = self.watched().map_or(PlateauState::default(), |_| plateau);
    }

    /// What it multiplies a base rate with for the step after `taken` steps.
    pub fn factor(&self, taken: u64, base: f64) -> f64 {
        let lr = reference(base);
        let factor = self.of.factor(&self.starts, taken, lr);
        let factor = self.watched().map_or(factor, |plateau| factor * plateau.share(self.plateau.factor, lr));
        let most = if base == 0.0 { LARGEST_LR } else { (LARGEST_LR / base).min(f64::MAX) };
        factor.min(most)
    }

    /// Takes in a loss, if it is a `plateau`.
    pub fn report(&mut self, loss: f64, base: f64) {
        if let Kind::Plateau(plateau) = &self.of.kind {
            self.plateau.report(plateau, loss, reference(base));
        }
    }
}

/// The base rate that a schedule starts from. In place of 0 it is one beside which any `min_lr` is nothing, and
/// a power of two, so that factors keep their digits.
fn reference(base: f64) -> f64 {
    if base == 0.0 { 2f64.powi(700) } else { base }
}
