// What is added up by unit: squares of gradients, and of parameters.

const PAIRS: bool = true;

fn job_range() -> vec2<u32> {
    return vec2<u32>(span.first_unit_job, span.unit_jobs);
}

fn value(job: LineJob, lines_of: LineSet, element: u32, decision: Decision) -> vec3<f32> {
    return squares(vec4<f32>(gradient_of(job, element, decision), 0.0, 0.0, 0.0));
}

fn second_value(job: LineJob, element: u32) -> vec3<f32> {
    let at = element - job.first_element;
    return squares(vec4<f32>(weight_at(job.start + at, block_of(job, at), at % BLOCK), 0.0, 0.0, 0.0));
}
