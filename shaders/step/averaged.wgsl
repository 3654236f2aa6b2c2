// p moves as the rule makes of lr*u and of the step's share in the average of the iterates.

fn step_of(proposal: Proposal, s: ptr<function, State>, decision: Decision, track: Track, tensor: u32, h: Hyper) -> vec4<f32> {
    return averaged(proposal.e, track.lr * proposal.u, decision.share, s, h);
}
