// p moves by lr*u, and by lr*lambda*p beside it.

fn step_of(proposal: Proposal, s: ptr<function, State>, decision: Decision, track: Track, tensor: u32, h: Hyper) -> vec4<f32> {
    return track.lr * proposal.u + track.lr_decoupled * proposal.e.p;
}
