// What `prepare.wgsl` tells the update about this step. `src/gpu/abi.rs` has the same rows.

// The numbers of a group at this step; a tensor that has missed steps has a track of its own.
struct Track {
    lr: f32,
    lr_decoupled: f32,
    coupled: f32,
    // Decay that is part of the update whose norm the rule's ratio compares.
    in_ratio: f32,
    // -1 where the rule should maximise.
    sign: f32,
    // Undoes the loss scale.
    unscale: f32,
    // What is kept of the weights' moving average, and the share of the new ones; 0 leaves it alone.
    ema_decay: f32,
    ema_weight: f32,
    scalars: array<f32, 12>,
}

// What happens to a tensor at this step.
struct Decision {
    action: u32,
    track: u32,
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

fn track_at(index: u32) -> Track {
    return load_track(settings.tracks_at + index * TRACK_WORDS);
}

fn decision_of(tensor: u32) -> Decision {
    return load_decision(settings.decisions_at + tensor * DECISION_WORDS);
}

fn noise_at(decision: Decision) -> vec2<u32> {
    return vec2<u32>(decision.key, decision.steps);
}

// Of the weights that a limit has scaled after the update has rounded them.
fn limit_noise(decision: Decision) -> vec2<u32> {
    return vec2<u32>(decision.key ^ 0x9e3779b9u, decision.steps);
}

const LARGEST_LR: f32 = 0x1.fffffep+127f;

// A rate times what is not negative, held at the largest f32: an infinite one makes NaN of every parameter whose
// direction is 0. Looked at before it is multiplied, since a compiler may assume that no product is infinite; a hair
// below the bound, since a quotient is rounded.
fn held_rate(lr: f32, by: f32) -> f32 {
    if by > 1.0 && lr >= 0.999999 * (LARGEST_LR / by) {
        return LARGEST_LR;
    }
    return lr * by;
}

const LEAVE: u32 = 0u;
const TAKE: u32 = 1u;
// The step is skipped; a gradient that should be zeroed afterwards still is.
const SKIP_STEP: u32 = 2u;
// The gradient is added to those of earlier micro-batches.
const ACCUMULATE: u32 = 3u;
