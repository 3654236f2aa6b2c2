// One element's gradient as the rule sees it, decay and sign apart.

fn gradient_of(job: LineJob, element: u32, verdict: Verdict) -> f32 {
    let at = element - job.first_element;
    let lane = at % 4u;
    var words = vec4<u32>();
    words[lane] = gradients[job.start + span.gradient_shift + at];
    var block: Block;
    block.state = job.state + at / BLOCK * job.block_state;
    words = with_accumulated(words, block, at % BLOCK - lane);
    return scaled(condition(words, lanes[verdict.lane].unscale), verdict)[lane];
}
