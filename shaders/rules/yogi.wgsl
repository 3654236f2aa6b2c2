// Yogi (Zaheer et al. 2018), Optax's form: both moments start from the initial value.

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
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg = average((*s).exp_avg, e.g, h.beta1, h.beta1_complement);
    let squared = square(e.g);
    let before = (*s).exp_avg_sq;
    var fallen = before - h.beta2_complement * squared;
    if h.beta2_complement >= 0.5 {
        // Where little is left, none of its digits are lost.
        fallen = before - squared + h.beta2 * squared;
    }
    let risen = before + h.beta2_complement * squared;
    let exp_avg_sq = select(select(fallen, before, before == squared), risen, before < squared);
    (*s).exp_avg = exp_avg;
    (*s).exp_avg_sq = exp_avg_sq;
    return h.inverse_correction1 * exp_avg / (sqrt(exp_avg_sq) * h.inverse_root_correction2 + h.eps);
}
