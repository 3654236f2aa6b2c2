//! Whose weights lie in the parameters' place. The device knows; the host knows what it has recorded, and by the
//! encoders' callbacks what became of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::gpu::abi::PhaseChange;
use crate::gpu::device::context::Gpu;
use crate::gpu::device::uniforms;
use crate::gpu::device::uniforms::Uniforms;

/// Whose weights lie in the parameters' place: `Control.phase` on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Phase {
    /// Those to train with.
    #[default]
    Training = 0,
    /// Those to evaluate with, of rules that average their iterates. The others are kept beside.
    Evaluating = 1,
    /// The moving average. The others lie in its place.
    Averaged = 2,
    /// Those of a state that was written by half.
    Loading = 3,
    /// Likewise, begun during an evaluation, whose weights are still in their place.
    LoadingAside = 4,
}

impl Phase {
    pub fn of(word: u32) -> Self {
        match word {
            0 => Self::Training,
            1 => Self::Evaluating,
            2 => Self::Averaged,
            3 => Self::Loading,
            _ => Self::LoadingAside,
        }
    }

    /// While a state is being written.
    pub fn interrupted(self) -> Self {
        match self {
            Self::Evaluating | Self::LoadingAside => Self::LoadingAside,
            _ => Self::Loading,
        }
    }

    /// Once a whole state is written.
    pub fn resumed(self) -> Self {
        match self {
            Self::Loading => Self::Training,
            Self::LoadingAside => Self::Evaluating,
            phase => phase,
        }
    }

    /// Whether a state is there by half.
    pub fn is_loading(self) -> bool {
        self != self.resumed()
    }

    /// Refuses what must not meet other weights than those to train with.
    pub fn check_training(self, call: &str) -> Result<()> {
        let problem = match self {
            Self::Training => return Ok(()),
            Self::Evaluating => "an evaluation has begun and not ended; end_evaluation first",
            Self::Averaged => "the moving average lies in the parameters' place; swap_ema once more first",
            Self::Loading | Self::LoadingAside => {
                "a load or a change of tensors ended half done, and neither the old state is there nor the new; load a \
                 whole one first"
            }
        };
        Err(Error::call(call, problem))
    }
}

/// From one phase to another, all that can be, for kernels that run where the one is to follow the other.
#[derive(Debug)]
pub struct PhaseChanges(Uniforms);

impl PhaseChanges {
    const ALL: [[Phase; 2]; 4] = [
        [Phase::Training, Phase::Evaluating],
        [Phase::Evaluating, Phase::Training],
        [Phase::Training, Phase::Averaged],
        [Phase::Averaged, Phase::Training],
    ];

    /// What they take.
    pub const BYTES: u64 = uniforms::bytes(Self::ALL.len());

    pub fn new(gpu: &Gpu) -> Result<Self> {
        let rows = Self::ALL.map(|[before, after]| PhaseChange { before: before as u32, after: after as u32 });
        Ok(Self(Uniforms::new(gpu, "turns", &rows)?))
    }

    pub fn binding(&self, before: Phase, after: Phase) -> wgpu::BindingResource<'_> {
        self.0.row(Self::ALL.iter().position(|turn| *turn == [before, after]).unwrap_or_default())
    }
}

/// Recorded changes of what is not a step: of the phase, and of rows.
#[derive(Debug, Default)]
pub struct Phases {
    changes: Arc<Mutex<Changes>>,
}

#[derive(Debug, Default)]
struct Changes {
    /// After all that is known to be submitted.
    settled: Phase,
    /// What is recorded and not known to be submitted or dropped, in the order of recording, with the phase after it.
    pending: Vec<(u64, Option<Phase>)>,
    recorded: u64,
}

/// Lives in the encoder's callback: called when the change is submitted, dropped if it never will be.
struct ChangeGuard {
    changes: Arc<Mutex<Changes>>,
    number: u64,
}

impl ChangeGuard {
    fn submitted(self) {
        let mut changes = lock(&self.changes);
        let own = changes.pending.iter().find(|(number, _)| *number == self.number);
        if let Some(phase) = own.and_then(|(_, phase)| *phase) {
            changes.settled = phase;
        }
    }
}

impl Drop for ChangeGuard {
    fn drop(&mut self) {
        lock(&self.changes).pending.retain(|(number, _)| *number != self.number);
    }
}

fn lock(changes: &Mutex<Changes>) -> MutexGuard<'_, Changes> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Phases {
    /// After all that is recorded and not dropped.
    pub fn current(&self) -> Phase {
        let changes = lock(&self.changes);
        if changes.settled.is_loading() {
            return changes.settled;
        }
        changes.pending.iter().rev().find_map(|(_, phase)| *phase).unwrap_or(changes.settled)
    }

    /// Follows the fate of a change that is recorded there, and after which the phase is another or the same.
    pub fn follow(&self, encoder: &wgpu::CommandEncoder, to: Option<Phase>) {
        let mut changes = lock(&self.changes);
        changes.recorded += 1;
        let number = changes.recorded;
        changes.pending.push((number, to));
        let guard = ChangeGuard { changes: self.changes.clone(), number };
        drop(changes);
        encoder.on_submitted_work_done(move || guard.submitted());
    }

    /// Changes that are recorded and not known to be submitted or dropped.
    pub fn pending(&self) -> u64 {
        lock(&self.changes).pending.len() as u64
    }

    /// Takes in what the device says when nothing is pending, since it may have refused what was submitted; or what was
    /// written.
    pub fn settle(&self, phase: Phase) {
        lock(&self.changes).settled = phase;
    }
}
