// One workgroup decides the step: whether it is taken, what the norm does to the gradients, and
// which row of the step table holds. It alone counts the steps, so that skips and encoders that
// were never submitted leave no trace.

override SCAN: bool = true;
// Whether it counts non-finite elements in the control block, and nothing else.
override FINDS: bool = false;
override SKIP: bool = true;
// Whether the scan counts non-finite elements of every micro-batch.
override COUNT_EACH: bool = false;
// Whether the parts that come in are sums by tensor.
override BY_TENSOR: bool = false;
override CLIP_NORM: bool = false;
override NORMALIZE_NORM: bool = false;
// Limits of each tensor by itself.
override CLIP_TENSOR_NORM: bool = false;
override CLIP_LARGEST: bool = false;
// Whether the loss scale grows and backs off.
override DYNAMIC_SCALE: bool = false;
// Whether a rule averages its iterates.
override AVERAGES: bool = false;
// Whether a moving average of the weights is kept.
override EMA: bool = false;
override EMA_WARMUP: bool = false;

const NORM_EPS: f32 = 1e-6;
const MAX_SCALARS: u32 = 12u;
// Of the step table: the scalars, and what multiplies the decay.
const ROW_WORDS: u32 = 13u;
const LARGEST_GAMMA: f32 = 0x1p+60f;

var<workgroup> skip: u32;
var<workgroup> factor: Scaled;

fn decide(total: Partial, misplaced: bool) {
    let norm = norm_of(total);
    var scale = Scaled(1.0, 0);
    if CLIP_NORM {
        scale = clip_factor(norm, settings.norm_limit, NORM_EPS);
    }
    if NORMALIZE_NORM {
        scale = normalize_factor(norm, settings.norm_limit);
    }
    skip = select(0u, 1u, misplaced || SKIP && total.count > 0u);
    factor = scale;
    // Of a step whose micro-batches are counted one by one, together with those before.
    let before = select(0u, control.nonfinite, COUNT_EACH && control.micro > 0u);
    control.nonfinite = added(before, total.count);
    control.skip = skip;
    control.norm_mantissa = norm.mantissa;
    control.norm_exponent = norm.exponent;
    control.exponent = scale.exponent;
    control.coefficient = scale.mantissa;
}

// The learning rate of the group whose rates lie there, by the factors that lie there.
fn scheduled_lr(rates: u32, factors: u32, taken: u32) -> f32 {
    return held_rate(bitcast<f32>(table[rates]), bitcast<f32>(table[factors + taken % settings.factor_rows]));
}

// What is kept of the weights' average after the step-th step, and the share of the new ones.
fn ema_shares(step: u32) -> vec2<f32> {
    if step % settings.ema_interval != 0u {
        return vec2<f32>(1.0, 0.0);
    }
    let n = step / settings.ema_interval;
    if n == 1u {
        return vec2<f32>(0.0, 1.0);
    }
    var shares = vec2<f32>(settings.ema_decay, settings.ema_weight);
    if EMA_WARMUP {
        let warm = vec2<f32>(1.0 + f32(n), 9.0) / (10.0 + f32(n));
        shares = vec2<f32>(min(shares.x, warm.x), max(shares.y, warm.y));
    }
    return shares;
}

// The share of a tensor's step of size gamma in the average of its iterates, gamma^2 / sum of gamma^2;
// adds it to the sum.
fn share_of(tensor: u32, track: Track) -> f32 {
    // Squares that stay far from the largest f32, and a sum that stays there.
    let gamma = min(held_rate(track.lr, track.scalars[0]), LARGEST_GAMMA);
    let at = settings.tensors + tensor;
    let before = min(bitcast<f32>(control.counts[at]), LARGEST_LR - gamma * gamma);
    let sum = before + gamma * gamma;
    control.counts[at] = bitcast<u32>(sum);
    return select(gamma * gamma / sum, 0.0, sum == 0.0);
}

// Fills a track from the step table: the rates of its group now, the scalars of the step that its
// tensors take next.
fn resolve(index: u32, taken: u32) {
    let group = table[4u * index];
    let source = table[4u * index + 1u];
    let rows_at = table[4u * index + 2u];
    let rows = table[4u * index + 3u];
    let rates = settings.rates_at + 8u * group;
    let factors = table[rates + 5u];
    var lr = 1.0;
    if factors != 0u {
        lr = scheduled_lr(rates, factors, taken);
    }
    var track: Track;
    track.sign = bitcast<f32>(table[rates + 4u]);
    track.unscale = control.unscale;
    var count = taken;
    if source != 0u {
        count = control.counts[source - 1u];
    }
    if EMA {
        let shares = ema_shares(count + 1u);
        track.ema_decay = shares.x;
        track.ema_weight = shares.y;
    }
    let row = rows_at + count % rows * ROW_WORDS;
    // 1, or the decay itself where it has a schedule, and its kind a rate of 1.
    let decay = bitcast<f32>(table[row + MAX_SCALARS]);
    track.lr = lr;
    track.coupled = decay * bitcast<f32>(table[rates + 1u]);
    track.lr_decoupled = held_rate(lr, decay * bitcast<f32>(table[rates + 2u]));
    track.in_ratio = decay * bitcast<f32>(table[rates + 3u]);
    for (var i = 0u; i < MAX_SCALARS; i += 1u) {
        track.scalars[i] = bitcast<f32>(table[row + i]);
    }
    set_track(settings.tracks_at + index * TRACK_WORDS, track);
}

// What the norm is made of: parts as they come in, or the tensors' sums where limits go by tensor.
fn part_at(index: u32) -> Partial {
    if BY_TENSOR {
        return sum_at(index);
    }
    return partials[index];
}

@compute @workgroup_size(WORKGROUP)
fn prepare(@builtin(local_invocation_index) thread: u32) {
    // Other weights are in place, and gradients taken there are no good: the step is skipped, with the micro-batches
    // that it has so far.
    let misplaced = control.phase != TRAINING;
    let completes = misplaced || completes_step(control.micro);
    var mine = Partial();
    if SCAN && (completes || COUNT_EACH) && !misplaced {
        let count = select(settings.parts, settings.tensors, BY_TENSOR);
        for (var i = thread; i < count; i += WORKGROUP) {
            mine = add(mine, part_at(i));
        }
    }
    var total = sum_over_workgroup(thread, mine);
    if FINDS && thread == 0u {
        total.count = select(control.found, 0xffffffffu, control.found_more != 0u);
        control.found = 0u;
        control.found_more = 0u;
    }
    if !completes {
        // There is no norm yet.
        total = Partial(0.0, 0.0, 0.0, 0.0, total.count, 0u, vec2<u32>());
    }
    if thread == 0u {
        decide(total, misplaced);
    }
    let taken = control.taken;
    for (var i = thread; i < settings.tracks; i += WORKGROUP) {
        resolve(i, taken);
    }
    workgroupBarrier();
    storageBarrier();
    for (var i = thread; i < settings.tensors; i += WORKGROUP) {
        let tensor = tensor_at(i);
        var action = LEAVE;
        if tensor.live != 0u && !is_absent(i) {
            action = select(TAKE, SKIP_STEP, skip != 0u);
            action = select(ACCUMULATE, action, completes);
        }
        var scale = factor;
        if CLIP_TENSOR_NORM {
            scale = clip_factor(norm_of(sum_at(i)), settings.norm_limit, NORM_EPS);
        }
        if CLIP_LARGEST {
            scale = clip_factor(largest_scaled(sum_at(i)), settings.norm_limit, 0.0);
        }
        if tensor.unclipped != 0u {
            scale = Scaled(1.0, 0);
        }
        var share = 0.0;
        let steps = control.counts[i];
        if action == TAKE {
            control.counts[i] = steps + 1u;
            if AVERAGES && tensor.averages != 0u {
                share = share_of(i, track_at(tensor.track));
            }
        }
        let decision =
            Decision(action, tensor.track, scale.exponent, scale.mantissa, tensor.elements, share, tensor.key, steps);
        set_decision(settings.decisions_at + i * DECISION_WORDS, decision);
    }
    if thread == 0u {
        // The rate of [optimizer].lr, which group 0 always has.
        control.lr = scheduled_lr(settings.rates_at, settings.factors_at, taken);
        count_step(completes, misplaced, taken);
    }
}

fn count_step(completes: bool, misplaced: bool, taken: u32) {
    if !completes {
        control.micro += 1u;
        control.accumulated += 1u;
        return;
    }
    control.micro = 0u;
    if skip == 0u {
        control.taken = taken + 1u;
    } else {
        control.skipped += 1u;
    }
    if DYNAMIC_SCALE && !misplaced {
        rescale();
    }
}

// The loss scale for gradients to come, as PyTorch's GradScaler: down at once where one is not finite,
// up after an interval without.
fn rescale() {
    var scale = control.loss_scale;
    var good_steps = 0u;
    if control.nonfinite > 0u {
        scale *= settings.backoff_factor;
    } else if control.good_steps + 1u < settings.growth_interval {
        good_steps = control.good_steps + 1u;
    } else {
        scale *= settings.growth_factor;
    }
    // Both it and its inverse, over the micro-batches, stay normal numbers.
    scale = clamp(scale, 0x1p-64f, 0x1p64f);
    control.good_steps = good_steps;
    control.loss_scale = scale;
    control.unscale = 1.0 / scale;
    loss_scale[0] = scale;
}
