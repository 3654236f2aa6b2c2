// Only elements whose direction agrees with the gradient in sign move, further by as much as others
// stay (Liang et al. 2024). Decay is outside the mask.

fn step_of(proposal: Proposal, s: ptr<function, State>, decision: Decision, track: Track, tensor: u32, h: Hyper) -> vec4<f32> {
    let kept = select(vec4<f32>(), proposal.u, agrees(proposal));
    let growth = decision.elements / (f32(sum_at(tensor).count) + 1.0);
    return held_rate(track.lr, growth) * kept + track.lr_decoupled * proposal.e.p;
}
