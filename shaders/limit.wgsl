// Limit: scales a tensor's parameters down to a norm or a largest magnitude, where they exceed it.

override NORM: bool = true;

@compute @workgroup_size(WORKGROUP)
fn limit(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = row_of(group, groups);
    if row == NO_ROW {
        return;
    }
    let block = block_at(row);
    let decision = decision_of(block.tensor);
    if decision.action != TAKE {
        return;
    }
    var size = largest_scaled(sum_at(block.tensor));
    if NORM {
        size = norm_of(sum_at(block.tensor));
    }
    let scale = clip_factor(size, settings.weight_limit, 0.0);
    if scale.mantissa == 1.0 && scale.exponent == 0 {
        return;
    }
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let p = ldexp(load_weights(block, i, count), vec4<i32>(scale.exponent));
        store_weights(block, i, count, p * scale.mantissa, limit_noise(decision));
    }
}
