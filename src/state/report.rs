//! What a step did.

/// What one step did, as the device saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Steps taken so far, this one included if it was.
    pub steps_taken: u64,
    /// Steps skipped so far, this one included if it was.
    pub steps_skipped: u64,
    /// Whether this step was skipped.
    pub skipped: bool,
    /// Non-finite gradient elements that this step found, 2³² − 1 at most on the GPU; 0 where they are not tested for. Under
    /// `"zero"` of all its micro-batches so far (of those since a state was loaded), under `"skip"` of their sum.
    pub nonfinite: u64,
    /// The learning rate of `[optimizer]` at this step.
    pub lr: f64,
    /// The gradients' global norm after the clip by value, over finite elements; `None` where no
    /// option needs it. May exceed `f32`.
    pub global_norm: Option<f64>,
    /// What the gradients were multiplied with for their norm.
    pub clip_coefficient: f64,
    /// The loss scale for the gradients to come; 1 without one.
    pub loss_scale: f64,
    /// Micro-batches that the next step has already; 0 right after a step.
    pub accumulated: u64,
    /// Tensors, not frozen, that have had no gradient in any step so far: left alone while steps count.
    /// `tensors_without_gradient` of the optimizer names them.
    pub without_gradient: u64,
}
