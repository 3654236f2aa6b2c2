// Replaces the parameters of a rule that averages its iterates by those to evaluate with. A tensor that
// has taken no step is left alone.

@compute @workgroup_size(WORKGROUP)
fn evaluate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = row_of(group, groups);
    if row == NO_ROW {
        return;
    }
    let block = block_at(row);
    if control.phase != TRAINING || control.counts[block.tensor] == 0u {
        return;
    }
    begin_state(thread);
    let decision = decision_of(block.tensor);
    let h = load_hyper(track_at(decision.track));
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let e = Element(load_weights(block, i, count), vec4<f32>());
        let weights = evaluated(e, load_state(block, i), h);
        // Not the f32 copy: it goes on training.
        store_params(block.start + i, count, narrow_params(pack(weights), block, i, noise_at(decision)));
    }
}
