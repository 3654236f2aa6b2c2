// NAdam (Dozat 2016), PyTorch's form.

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    eps: f32,
    // (1 - mu_t) / (1 - product of mu up to t)
    gradient_weight: f32,
    // mu_{t+1} / (1 - product of mu up to t + 1)
    average_weight: f32,
    // 1 / sqrt(1 - beta2^step)
    inverse_root_correction2: f32,
}

struct State {
    exp_avg: vec4<f32>,
    exp_avg_sq: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg = average((*s).exp_avg, e.g, h.beta1, h.beta1_complement);
    let exp_avg_sq = average((*s).exp_avg_sq, square(e.g), h.beta2, h.beta2_complement);
    (*s).exp_avg = exp_avg;
    (*s).exp_avg_sq = exp_avg_sq;
    let step = h.gradient_weight * e.g + h.average_weight * exp_avg;
    return step / (sqrt(exp_avg_sq) * h.inverse_root_correction2 + h.eps);
}
