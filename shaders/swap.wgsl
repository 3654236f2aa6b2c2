// Exchanges parameters and their moving average, to evaluate with it and to go on training after. A
// tensor that has no average yet is left alone, and so is a row that joined after the last averaging: NaN. All are
// if the device is not in the phase for it.

@compute @workgroup_size(WORKGROUP)
fn swap_weights(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = row_of(group, groups);
    if row == NO_ROW {
        return;
    }
    let block = block_at(row);
    if control.phase != turn.before || control.counts[block.tensor] < settings.ema_interval {
        return;
    }
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let word = ema_word(block, i);
        let average = state_f32(word);
        let p = load_weights(block, i, count);
        set_state_f32(word, select(pack(p), average, is_nan(average)));
        // Nothing is rounded by chance where there is an average.
        store_weights(block, i, count, select(unpack(average), p, is_nan(average)), vec2<u32>());
    }
}
