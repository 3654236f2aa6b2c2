// Lion (Chen et al. 2023), Optax's form.

struct Hyper {
    // Of the step.
    beta1: f32,
    beta1_complement: f32,
    // Of what is kept.
    beta2: f32,
    beta2_complement: f32,
}

struct State {
    exp_avg: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let step = average_wide((*s).exp_avg, e.g, h.beta1, h.beta1_complement);
    (*s).exp_avg = average_wide((*s).exp_avg, e.g, h.beta2, h.beta2_complement);
    return sign(step);
}
