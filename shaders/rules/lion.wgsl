// Lion (Chen et al. 2023), Optax's form.

struct Hyper {
    // 1 - beta1
    step_complement: f32,
    // 1 - beta2
    kept_complement: f32,
}

struct State {
    exp_avg: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let step = average_wide((*s).exp_avg, e.g, h.step_complement);
    (*s).exp_avg = average_wide((*s).exp_avg, e.g, h.kept_complement);
    return sign(step);
}
