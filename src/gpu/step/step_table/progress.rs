//! What is known of the steps that were recorded: how many are under way, and how far the device has counted.

use crate::gpu::readback::reports::{Ended, Snapshot};
use crate::state::OptimizerState;

#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What the GPU is known to have counted, and when.
    known: Known,
    /// Steps recorded since the optimizer was made.
    recorded: u64,
    /// Of them, those that were submitted and not executed.
    refused: u64,
    /// What the device's count of executed steps is ahead of ours since a state was loaded.
    executed_ahead: i128,
    /// The device's count of executed steps in the state that was loaded.
    started_from: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    taken: u64,
    /// Of the recorded steps, those executed by then.
    executed: u64,
    /// Micro-batches of the step under way then.
    micro: u64,
}

impl Progress {
    /// Steps that the device is known to have taken: the least count that it can have.
    pub fn taken(&self) -> u64 {
        self.known.taken
    }

    /// Whether the snapshot is of a step, and not of a state that was only loaded.
    pub fn is_of_a_step(&self, snapshot: &Snapshot) -> bool {
        snapshot.executed() > self.started_from
    }

    /// Takes in what the GPU reported, if that is news.
    pub fn confirm(&mut self, snapshot: &Snapshot) -> bool {
        let executed = i128::from(snapshot.executed()) - self.executed_ahead;
        let Some(executed) = u64::try_from(executed).ok().filter(|executed| *executed >= self.known.executed) else {
            return false;
        };
        self.known = Known { taken: snapshot.control.taken.into(), executed, micro: snapshot.control.micro.into() };
        true
    }

    /// One more step is recorded.
    pub fn record(&mut self) {
        self.recorded += 1;
    }

    /// Takes in how steps had ended before the device's count was read that is confirmed now. If all had, those that
    /// it did not execute were refused, and never will be.
    pub fn settle(&mut self, ended: Ended) {
        if ended.dropped + ended.finished == self.recorded {
            self.refused = ended.finished.saturating_sub(self.known.executed);
        }
    }

    /// Steps recorded and not known to be executed, refused or dropped.
    pub fn ahead(&self, dropped: u64) -> u64 {
        self.recorded.saturating_sub(self.known.executed + self.refused).saturating_sub(dropped)
    }

    /// Whether the step recorded last completes one of so many micro-batches, if all that is under way is done in order.
    pub fn completes(&self, dropped: u64, accumulate: u64) -> bool {
        (self.known.micro + self.ahead(dropped)).is_multiple_of(accumulate.max(1))
    }

    /// Steps taken before the one that is recorded next, if all that are under way are taken.
    pub fn next_count(&self, dropped: u64, accumulate: u64) -> u64 {
        self.known.taken + (self.known.micro + self.ahead(dropped)) / accumulate.max(1)
    }

    /// A state is loaded while nothing is under way: counts start from there.
    pub fn restart(&mut self, state: &OptimizerState, executed_before: u64) {
        // Steps recorded earlier and not yet submitted are still to come.
        let executed = i128::from(executed_before) - self.executed_ahead;
        self.known =
            Known { taken: state.steps_taken, executed: executed.try_into().unwrap_or(0), micro: state.micro_batches };
        self.started_from = state.steps_taken + state.steps_skipped;
        self.executed_ahead = i128::from(self.started_from) - executed;
    }
}
