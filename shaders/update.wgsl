// The update: each parameter, gradient and state word is read once and written once. One workgroup
// serves one block.

override WEIGHT_CLIP: bool = false;
override ACCUMULATES: bool = false;

@compute @workgroup_size(WORKGROUP)
fn update(
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
    if decision.action == LEAVE {
        return;
    }
    begin_state(thread);
    let track = track_at(decision.track);
    let h = load_hyper(track);
    for (var base = 0u; base < block.len; base += WORKGROUP * 4u) {
        let i = base + thread * 4u;
        let count = min(block.len - min(i, block.len), 4u);
        if count > 0u {
            if decision.action == TAKE {
                let proposal = propose(block, i, count, decision, track, h);
                var s = proposal.s;
                // One subtraction from p: decay and step are rounded into it together.
                let step = step_of(proposal, &s, decision, track, block.tensor, h);
                var p = proposal.e.p - step;
                if ANY_GRADIENT {
                    p = saturated(proposal.e.p, -step);
                }
                p = with_noise(p, block, i, decision, track);
                if WEIGHT_CLIP {
                    p = clamp(p, vec4<f32>(-settings.weight_clip), vec4<f32>(settings.weight_clip));
                }
                store_state(block, i, count, s, noise_at(decision));
                store_weights(block, i, count, p, noise_at(decision));
                watch(proposal.e.p, p, count);
            }
            if ACCUMULATES {
                var sum = vec4<u32>();
                if decision.action == ACCUMULATE {
                    sum = with_accumulated(load_gradients(gradient_element(block, i), count), block, i, track.unscale);
                }
                store_accumulated(block, i, sum);
            }
            clear_gradients(gradient_element(block, i), count);
        }
        if decision.action == TAKE {
            finish_state(block, i, count);
        }
    }
    report_health(block, thread);
}
