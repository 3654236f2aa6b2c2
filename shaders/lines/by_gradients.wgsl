// What is added up by row and by column: squares of gradients, as a rule sees them that squares them.

const PAIRS: bool = false;

fn job_range() -> vec2<u32> {
    return vec2<u32>(span.first_line_job, span.line_jobs);
}

fn value(job: LineJob, lines_of: LineSet, element: u32, decision: Decision) -> vec3<f32> {
    let g = gradient_of(job, element, decision) * unit_factor(lines_of.tensor, element);
    return squares(held(vec4<f32>(g, 0.0, 0.0, 0.0)));
}

fn second_value(job: LineJob, element: u32) -> vec3<f32> {
    return vec3<f32>();
}
