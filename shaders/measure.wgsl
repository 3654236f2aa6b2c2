// Measure: what a rule's own update adds up to, block by block, with nothing stored: the squares of
// parameters and of updates, or how many elements a cautious mask keeps. Only for rules and options
// that ask for it; costs the update's reads once more.

override CAUTIOUS: bool = false;

@compute @workgroup_size(WORKGROUP)
fn measure(
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
    begin_state(thread);
    let track = track_at(decision.track);
    let h = load_hyper(track);
    var of_params = vec3<f32>();
    var of_update = vec3<f32>();
    var kept = vec4<u32>();
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let mine = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
        let proposal = propose(block, i, count, decision, track, h);
        if CAUTIOUS {
            kept += select(vec4<u32>(), vec4<u32>(1u), agrees(proposal) & mine);
        } else {
            of_params += squares(select(vec4<f32>(), proposal.e.p, mine));
            of_update += squares(select(vec4<f32>(), proposal.u, mine));
        }
    }
    let kept_sum = kept.x + kept.y + kept.z + kept.w;
    let first = Partial(of_params.x, of_params.y, of_params.z, 0.0, kept_sum, 0u, vec2<u32>());
    let total_params = sum_over_workgroup(thread, first);
    // The next sum reuses the workgroup's memory.
    workgroupBarrier();
    let second = Partial(of_update.x, of_update.y, of_update.z, 0.0, 0u, 0u, vec2<u32>());
    let total_update = sum_over_workgroup(thread, second);
    if thread == 0u {
        partials[block.partial] = total_params;
        partials[settings.blocks + block.partial] = total_update;
    }
}
