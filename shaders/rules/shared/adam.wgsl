// Adam's moments and direction (Kingma & Ba 2015), with AMSGrad (Reddi et al. 2018), PyTorch's form:
// eps outside the root, the maximum over raw second moments.

override AMSGRAD: bool = false;

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    eps: f32,
    // 1 / (1 - beta1^step)
    inverse_correction1: f32,
    // 1 / sqrt(1 - beta2^step)
    inverse_root_correction2: f32,
}

struct State {
    exp_avg: vec4<f32>,
    exp_avg_sq: vec4<f32>,
    max_exp_avg_sq: vec4<f32>,
}

fn adam(g: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg = average((*s).exp_avg, g, h.beta1, h.beta1_complement);
    let exp_avg_sq = average((*s).exp_avg_sq, square(g), h.beta2, h.beta2_complement);
    (*s).exp_avg = exp_avg;
    (*s).exp_avg_sq = exp_avg_sq;
    var second = exp_avg_sq;
    if AMSGRAD {
        second = max((*s).max_exp_avg_sq, exp_avg_sq);
        (*s).max_exp_avg_sq = second;
    }
    return h.inverse_correction1 * exp_avg / (sqrt(second) * h.inverse_root_correction2 + h.eps);
}
