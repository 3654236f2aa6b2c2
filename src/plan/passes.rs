//! The passes of a step over memory, as data: what each is run over and which memory of a tensor it reads and writes. What
//! is recorded, what the CPU backend does and the bytes that a step moves follow from them.

use super::Plan;

/// What a sum is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sum {
    /// Gradients, for their norm.
    Gradients,
    /// Parameters and updates before these are made.
    Measures,
    /// Parameters after the update.
    Weights,
    /// Gradients that are looked at for their health.
    LookGradients,
    /// Parameters before the update and their change, looked at.
    LookUpdates,
}

impl Sum {
    /// Sets of parts, one behind the other.
    pub const fn sets(self) -> u32 {
        match self {
            Self::Gradients | Self::Weights | Self::LookGradients => 1,
            Self::Measures | Self::LookUpdates => 2,
        }
    }
}

/// A pass over memory: of a step, or of what may stand between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// Reads every gradient for its health.
    Watch,
    /// Reads every gradient: norm and non-finite test.
    Scan,
    /// Adds parts up by group of blocks, where there are so many blocks.
    SumGroups(Sum),
    /// Adds parts up by tensor.
    SumTensors(Sum),
    /// Decides: skip or go on, clip coefficient, this step's scalars.
    Prepare,
    /// Adds squares of gradients and parameters up by unit.
    SumUnits,
    /// Makes a factor of each unit's sums.
    ClipUnits,
    /// Adds squares of gradients up by row and by column.
    SumLines,
    /// Averages rows and columns over the steps.
    AverageLines,
    /// Adds the rows' averages up by matrix.
    SumRows,
    /// Makes a mean of each matrix's sum.
    MeanRows,
    /// Computes the update of rules that must know its norm, and of cautious masks; stores nothing.
    Measure,
    /// Reads gradient, parameter and state once, writes parameter and state once.
    Update,
    /// The same, and sums up what that does to the parameters.
    WatchedUpdate,
    /// Reads the new parameters for a limit of their norm or magnitude.
    Weigh,
    /// Scales tensors that exceed the limit.
    Limit,
    /// Averages the weights over the steps.
    Average,
    /// Between steps: exchanges the weights and their average.
    Swap {
        /// Whether it is back.
        back: bool,
    },
    /// Between steps: replaces weights by those to evaluate with.
    Evaluate,
}

/// What a pass has a workgroup for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// The step.
    Once,
    /// Each block of each tensor.
    Blocks,
    /// Each group of blocks.
    Groups,
    /// Each tensor.
    Tensors,
    /// Each share of lines in a span's memory.
    Lines,
    /// Each share of lines of values that are lines' already.
    Values,
    /// Some hundred lines.
    Folds,
}

/// Memory of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Its gradient.
    Gradient,
    /// Its parameters, as they are stored.
    Params,
    /// The rule's slots, the sum of micro-batches and the f32 master.
    Slots,
    /// Its weights at full precision: parameters and the f32 master.
    Weights,
    /// The average of its weights.
    Ema,
}

/// What a pass does, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassSpec {
    /// What it has a workgroup for.
    pub per: Per,
    /// What it reads of a tensor, once for each time that it stands here.
    pub reads: &'static [Memory],
    /// What it writes of a tensor.
    pub writes: &'static [Memory],
}

impl Pass {
    /// What it does.
    pub const fn spec(self) -> PassSpec {
        use Memory::{Ema, Gradient, Params, Slots, Weights};
        let (per, reads, writes): (_, &'static [Memory], &'static [Memory]) = match self {
            Self::Watch | Self::Scan => (Per::Blocks, &[Gradient], &[]),
            Self::SumGroups(_) => (Per::Groups, &[], &[]),
            Self::SumTensors(_) => (Per::Tensors, &[], &[]),
            Self::Prepare => (Per::Once, &[], &[]),
            Self::SumUnits => (Per::Lines, &[Gradient, Weights], &[]),
            Self::SumLines => (Per::Lines, &[Gradient, Gradient], &[]),
            Self::SumRows => (Per::Values, &[], &[]),
            Self::ClipUnits | Self::AverageLines | Self::MeanRows => (Per::Folds, &[], &[]),
            Self::Measure => (Per::Blocks, &[Gradient, Params, Slots], &[]),
            Self::Update | Self::WatchedUpdate => (Per::Blocks, &[Gradient, Params, Slots], &[Params, Slots]),
            Self::Weigh => (Per::Blocks, &[Weights], &[]),
            Self::Limit => (Per::Blocks, &[Weights], &[Weights]),
            Self::Average => (Per::Blocks, &[Weights, Ema], &[Ema]),
            Self::Swap { .. } => (Per::Blocks, &[Weights, Ema], &[Weights, Ema]),
            Self::Evaluate => (Per::Blocks, &[Params, Slots], &[Params]),
        };
        PassSpec { per, reads, writes }
    }
}

impl Plan {
    /// The passes of a step, in order; of one that is looked at for its health if it is `watched`.
    pub fn passes(&self, watched: bool) -> impl Iterator<Item = Pass> + use<> {
        let gradient = &self.gradient;
        // Where nothing but non-finite elements is looked for, there are no parts.
        let parts = gradient.needs_scan() && !gradient.only_finds();
        let measures = self.measures();
        let limits = self.weights.tensor_limit().is_some();
        let units = gradient.clip_adaptive.is_some() && !self.needs.spared;
        let factors = self.factors();
        [
            (watched, Pass::Watch),
            (watched, Pass::SumGroups(Sum::LookGradients)),
            (watched, Pass::SumTensors(Sum::LookGradients)),
            (gradient.needs_scan(), Pass::Scan),
            (parts, Pass::SumGroups(Sum::Gradients)),
            (gradient.by_tensor(), Pass::SumTensors(Sum::Gradients)),
            (true, Pass::Prepare),
            (units, Pass::SumUnits),
            (units, Pass::ClipUnits),
            (factors, Pass::SumLines),
            (factors, Pass::AverageLines),
            (factors, Pass::SumRows),
            (factors, Pass::MeanRows),
            (measures, Pass::Measure),
            (measures, Pass::SumGroups(Sum::Measures)),
            (measures, Pass::SumTensors(Sum::Measures)),
            (!watched, Pass::Update),
            (watched, Pass::WatchedUpdate),
            (watched, Pass::SumGroups(Sum::LookUpdates)),
            (watched, Pass::SumTensors(Sum::LookUpdates)),
            (limits, Pass::Weigh),
            (limits, Pass::SumGroups(Sum::Weights)),
            (limits, Pass::SumTensors(Sum::Weights)),
            (limits, Pass::Limit),
            (self.ema.is_some(), Pass::Average),
        ]
        .into_iter()
        .filter_map(|(needed, pass)| needed.then_some(pass))
    }

    /// Whether a pass has work with a tensor.
    pub(crate) fn has_work(&self, pass: Pass, tensor: usize) -> bool {
        match pass {
            Pass::Measure => self.variant_of(tensor).measures(),
            Pass::SumLines => self.factored(tensor).is_some(),
            _ => self.is_live(tensor),
        }
    }
}
