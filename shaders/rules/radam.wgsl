// RAdam (Liu et al. 2020), PyTorch's form: eps beside the uncorrected root.

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    eps: f32,
    // 1 / (1 - beta1^step)
    inverse_correction1: f32,
    // The rectification term times sqrt(1 - beta2^step); 0 while the variance is not tractable.
    rectification: f32,
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
    let corrected = h.inverse_correction1 * exp_avg;
    if h.rectification > 0.0 {
        return h.rectification * corrected / (sqrt(exp_avg_sq) + h.eps);
    }
    return corrected;
}
