// Weights stay where the step has put them.

fn with_noise(p: vec4<f32>, block: Block, i: u32, verdict: Verdict, lane: Lane) -> vec4<f32> {
    return p;
}
