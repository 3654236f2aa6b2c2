// Weigh: one read of the parameters after the update gives each block's part of the sum of squares and
// its largest magnitude, for limits of the weights by tensor.

override NORM: bool = true;

@compute @workgroup_size(WORKGROUP)
fn weigh(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = row_of(group, groups);
    if row == NO_ROW {
        return;
    }
    let block = block_at(row);
    if decision_of(block.tensor).action != TAKE {
        return;
    }
    var sums = vec3<f32>();
    var largest = 0.0;
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let mine = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
        let p = select(vec4<f32>(), load_weights(block, i, count), mine);
        if NORM {
            sums += squares(p);
        } else {
            largest = max(largest, largest_of(p));
        }
    }
    let total = sum_over_workgroup(thread, Partial(sums.x, sums.y, sums.z, largest, 0u, 0u, vec2<u32>()));
    if thread == 0u {
        partials[block.partial] = total;
    }
}
