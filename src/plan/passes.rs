//! The passes of a step over memory.

use super::Plan;

/// A pass of a step over memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Reads every gradient: norm and non-finite test.
    Scan,
    /// Adds the scan's parts up by tensor.
    SumGradients,
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
    /// Adds the measure's parts up by tensor.
    SumUpdates,
    /// Reads gradient, parameter and state once, writes parameter and state once.
    Update,
    /// Reads the new parameters for a limit of their norm or magnitude.
    Weigh,
    /// Adds the weights' parts up by tensor.
    SumWeights,
    /// Scales tensors that exceed the limit.
    Limit,
    /// Averages the weights over the steps.
    Average,
}

impl Plan {
    /// The passes of a step, in order.
    pub fn passes(&self) -> impl Iterator<Item = Pass> {
        let measures = self.measures();
        let limits = self.weights.tensor_limit().is_some();
        let units = self.gradient.clip_adaptive.is_some();
        let factors = self.factors();
        [
            (self.gradient.needs_scan(), Pass::Scan),
            (self.gradient.by_tensor(), Pass::SumGradients),
            (true, Pass::Prepare),
            (units, Pass::SumUnits),
            (units, Pass::ClipUnits),
            (factors, Pass::SumLines),
            (factors, Pass::AverageLines),
            (factors, Pass::SumRows),
            (factors, Pass::MeanRows),
            (measures, Pass::Measure),
            (measures, Pass::SumUpdates),
            (true, Pass::Update),
            (limits, Pass::Weigh),
            (limits, Pass::SumWeights),
            (limits, Pass::Limit),
            (self.ema.is_some(), Pass::Average),
        ]
        .into_iter()
        .filter_map(|(needed, pass)| needed.then_some(pass))
    }
}
