// Adamax (Kingma & Ba 2015, section 7.1), PyTorch's form: eps inside the maximum.

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    eps: f32,
    // 1 / (1 - beta1^step)
    inverse_correction1: f32,
}

struct State {
    exp_avg: vec4<f32>,
    exp_inf: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg = average_wide((*s).exp_avg, e.g, h.beta1, h.beta1_complement);
    let exp_inf = max(h.beta2 * (*s).exp_inf, abs(e.g) + h.eps);
    (*s).exp_avg = exp_avg;
    (*s).exp_inf = exp_inf;
    // The quotient first: the corrected average of the largest gradients can leave f32 by its rounding.
    return h.inverse_correction1 * (exp_avg / exp_inf);
}
