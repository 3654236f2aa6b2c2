// What holds for every step. `Settings` in `src/gpu/abi.rs`.

struct Settings {
    blocks: u32,
    // Parts of a sum that the tensors' sums are made of: the blocks', or those of groups of blocks.
    parts: u32,
    tensors: u32,
    tracks: u32,
    // Word offsets of what lies in `tables`, behind the blocks.
    tensors_at: u32,
    absent_at: u32,
    decisions_at: u32,
    tracks_at: u32,
    sums_at: u32,
    line_sets_at: u32,
    // Word offsets in the step table.
    rates_at: u32,
    factors_at: u32,
    factor_rows: u32,
    clip_value: f32,
    norm_limit: f32,
    weight_clip: f32,
    weight_limit: f32,
    // Micro-batches that make a step, and what takes the mean over them.
    accumulate: u32,
    mean: f32,
    growth_interval: u32,
    growth_factor: f32,
    backoff_factor: f32,
    ema_interval: u32,
    // What is kept of the weights' average, and the share of the new ones: 1 less the other, which f32 holds to its last
    // digit only where the difference is taken before it is rounded.
    ema_decay: f32,
    ema_weight: f32,
    // Times the root of the rate the size of the noise.
    noise: f32,
}
