// p moves by lr*u, and by lr*lambda*p beside it.

fn step_of(proposal: Proposal, s: ptr<function, State>, verdict: Verdict, lane: Lane, tensor: u32, h: Hyper) -> vec4<f32> {
    return lane.lr * proposal.u + lane.lr_decoupled * proposal.e.p;
}
