// Moving average of the weights, after everything else has shaped them.

@compute @workgroup_size(WORKGROUP)
fn average_weights(
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
    let track = track_at(decision.track);
    if decision.action != TAKE || track.ema_weight == 0.0 {
        return;
    }
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let p = load_weights(block, i, count);
        let word = ema_word(block, i);
        let old = state_f32(word);
        let averaged = average_wide(unpack(old), p, track.ema_decay, track.ema_weight);
        set_state_f32(word, select(pack(averaged), pack(p), is_nan(old)));
    }
}
