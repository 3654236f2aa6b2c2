// What is added up by matrix: the rows' averages, as they are.

const PAIRS: bool = false;

fn job_range() -> vec2<u32> {
    return vec2<u32>(0u, arrayLength(&jobs));
}

fn value(job: LineJob, lines_of: LineSet, element: u32, verdict: Verdict) -> vec3<f32> {
    return vec3<f32>(0.0, bitcast<f32>(lines[job.start + element]), 0.0);
}

fn second_value(job: LineJob, element: u32) -> vec3<f32> {
    return vec3<f32>();
}
