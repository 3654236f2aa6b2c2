// Yogi (Zaheer et al. 2018), Optax's form: both moments start from the initial value.

struct Hyper {
    beta1_complement: f32,
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
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg = average((*s).exp_avg, e.g, h.beta1_complement);
    let squared = square(e.g);
    let exp_avg_sq = (*s).exp_avg_sq - h.beta2_complement * sign((*s).exp_avg_sq - squared) * squared;
    (*s).exp_avg = exp_avg;
    (*s).exp_avg_sq = exp_avg_sq;
    return h.inverse_correction1 * exp_avg / (sqrt(exp_avg_sq) * h.inverse_root_correction2 + h.eps);
}
