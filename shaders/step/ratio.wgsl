// p moves by lr*ratio*u, the ratio the rule's own function of the norms of p and u, and what the rule
// makes of that step in the end.

fn step_of(proposal: Proposal, s: ptr<function, State>, decision: Decision, track: Track, tensor: u32, h: Hyper) -> vec4<f32> {
    let lr = track.lr;
    let p_norm = plain(norm_of(sum_at(tensor)));
    let u_norm = plain(norm_of(sum_at(settings.tensors + tensor)));
    let step = held_rate(lr, ratio(Norms(p_norm, u_norm, decision.elements, lr), h)) * proposal.u;
    return finish(proposal.e, step, s, h) + track.lr_decoupled * proposal.e.p;
}
