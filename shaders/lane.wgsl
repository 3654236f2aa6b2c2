// What `prepare.wgsl` tells the update about this step. `src/gpu/rows.rs` has the same rows.

// The numbers of a group at this step; a tensor that has missed steps has a lane of its own.
struct Lane {
    lr: f32,
    lr_decoupled: f32,
    coupled: f32,
    // Decay that is part of the update whose norm the rule's ratio compares.
    in_ratio: f32,
    // -1 where the rule should maximise.
    sign: f32,
    // Undoes the loss scale.
    unscale: f32,
    // The share of the new weights in their moving average; 0 leaves it alone.
    ema_weight: f32,
    spare: f32,
    scalars: array<f32, 12>,
}

// What happens to a tensor at this step.
struct Verdict {
    action: u32,
    lane: u32,
    // The gradient is multiplied by 2^exponent, then by coefficient: either alone can leave f32.
    exponent: i32,
    coefficient: f32,
    // How many the tensor has.
    elements: f32,
    // Of this step in the average of the iterates.
    share: f32,
    // What its random bits depend on: the tensor, and the steps it has taken before this one.
    key: u32,
    steps: u32,
}

fn noise_at(verdict: Verdict) -> vec2<u32> {
    return vec2<u32>(verdict.key, verdict.steps);
}

// Of the weights that a limit has scaled after the update has rounded them.
fn limit_noise(verdict: Verdict) -> vec2<u32> {
    return vec2<u32>(verdict.key ^ 0x9e3779b9u, verdict.steps);
}

const LEAVE: u32 = 0u;
const TAKE: u32 = 1u;
// The step is skipped; a gradient that should be zeroed afterwards still is.
const SKIP_STEP: u32 = 2u;
// The gradient is added to those of earlier micro-batches.
const ACCUMULATE: u32 = 3u;
