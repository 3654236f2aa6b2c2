// One element's gradient as the rule sees it, decay and sign apart.

// The block of an element of the job's part of the tensor, as far as it takes to find its state.
fn block_of(job: LineJob, at: u32) -> Block {
    var block: Block;
    block.len = min(BLOCK, job.end_element - job.first_element - at / BLOCK * BLOCK);
    block.state = job.state + at / BLOCK * job.block_state;
    return block;
}

fn gradient_of(job: LineJob, element: u32, decision: Decision) -> f32 {
    let at = element - job.first_element;
    let component = at % 4u;
    // By `select`: FXC refuses to write to a component that an index names.
    let own = vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(component);
    var words = select(vec4<u32>(), vec4<u32>(gradient_at(job.start + span.gradient_shift + at)), own);
    let unscale = track_at(decision.track).unscale;
    words = with_accumulated(words, block_of(job, at), at % BLOCK - component, unscale);
    return scaled(condition(words, unscale), decision)[component];
}
