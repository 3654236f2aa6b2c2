// What the GPU keeps from step to step. `Control` in `src/gpu/abi.rs`.

struct Control {
    taken: u32,
    skipped: u32,
    // Micro-batches that were only accumulated, in all and since the last step.
    accumulated: u32,
    micro: u32,
    nonfinite: u32,
    skip: u32,
    // The norm is norm_mantissa * 2^norm_exponent.
    norm_mantissa: f32,
    norm_exponent: i32,
    exponent: i32,
    coefficient: f32,
    lr: f32,
    // What the caller multiplies the loss with, what undoes it, and steps since the scale last changed.
    loss_scale: f32,
    unscale: f32,
    good_steps: u32,
    // Whose weights lie in the parameters' place.
    phase: u32,
    // Counts the states loaded, so that reports of an older one can be told.
    generation: u32,
    // Non-finite elements that `find_nonfinite.wgsl` has counted since the last step, and whether they were more than a
    // u32 holds.
    found: u32,
    found_more: u32,
    // Steps that each tensor has taken; where a rule averages its iterates, then each tensor's sum of
    // weights.
    counts: array<u32>,
}

// Of the phases: the weights to train with are in place.
const TRAINING: u32 = 0u;
