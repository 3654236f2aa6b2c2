// Adds each line's parts up, in fixed order, and makes of the sum what its set is for. One thread serves
// a line.

// The least norm that a unit's parameters count with, and the least that a gradient's is divided by.
const UNIT_EPS: f32 = 1e-3;
const NORM_EPS: f32 = 1e-6;

fn sum_of_parts(lines_of: LineSet, at: u32) -> Partial {
    var sum = vec3<f32>();
    for (var part = 0u; part < lines_of.parts; part += 1u) {
        sum += line_partials[at + part * lines_of.count].xyz;
    }
    return Partial(sum.x, sum.y, sum.z, 0.0, 0u, 0u, vec2<u32>());
}

fn unit_factor_of(gradient: f32, weights: f32) -> f32 {
    let limit = settings.norm_limit * max(weights, UNIT_EPS);
    return select(limit / max(gradient, NORM_EPS), 1.0, gradient < limit);
}

// Their mean, which f32 holds unless a single square leaves it.
fn mean_square(total: Partial, length: u32) -> f32 {
    if total.large > 0.0 {
        let root = plain(norm_of(total)) / sqrt(f32(length));
        return square(vec4<f32>(root)).x;
    }
    return (total.middle + lower(total.small, -2 * SMALL_EXPONENT)) / f32(length);
}

@compute @workgroup_size(WORKGROUP)
fn fold_lines(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= arrayLength(&folds) {
        return;
    }
    let lines_of = line_set_at(folds[index].x);
    let number = folds[index].y + thread;
    let decision = decision_of(lines_of.tensor);
    if number >= lines_of.count || decision.action != TAKE {
        return;
    }
    let at = lines_of.partials_at + number;
    let out = lines_of.out_at + number;
    let total = sum_of_parts(lines_of, at);
    var result = 0.0;
    if lines_of.kind == UNITS {
        let weights = sum_of_parts(lines_of, at + lines_of.parts * lines_of.count);
        result = unit_factor_of(plain(norm_of(total)), plain(norm_of(weights)));
    } else if lines_of.kind == AVERAGE {
        let old = vec4<f32>(bitcast<f32>(lines[out]));
        let now = vec4<f32>(mean_square(total, lines_of.length));
        let track = track_at(decision.track);
        result = average(old, now, track.scalars[0], track.scalars[1]).x;
    } else {
        // Large means are added up at 2^-40 of their size.
        let mean = total.middle / f32(lines_of.length) + total.large / f32(lines_of.length) * 0x1p40f;
        result = max(mean, track_at(decision.track).scalars[2]);
    }
    lines[out] = bitcast<u32>(result);
}
