// AdaBelief (Zhuang et al. 2020), Optax's form: eps_root accumulates in the second moment.

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    eps: f32,
    eps_root: f32,
    // 1 / (1 - beta1^step)
    inverse_correction1: f32,
    // 1 / sqrt(1 - beta2^step)
    inverse_root_correction2: f32,
}

struct State {
    exp_avg: vec4<f32>,
    exp_avg_var: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg = average((*s).exp_avg, e.g, h.beta1, h.beta1_complement);
    let exp_avg_var = average((*s).exp_avg_var, square(e.g - exp_avg), h.beta2, h.beta2_complement) + h.eps_root;
    (*s).exp_avg = exp_avg;
    (*s).exp_avg_var = exp_avg_var;
    return h.inverse_correction1 * exp_avg / (sqrt(exp_avg_var) * h.inverse_root_correction2 + h.eps);
}
