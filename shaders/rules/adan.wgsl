// Adan (Xie et al. 2022), Optax's form: the first difference is zero.

// Above it no gradient lies that the rule sees: it marks rows that joined the tensor late and have none before.
const NONE_BEFORE: f32 = 0x1p61f;

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    beta3: f32,
    beta3_complement: f32,
    // 0 on the first step, which has no gradient before it, then 1
    has_difference: f32,
    eps: f32,
    // eps_root * (1 - beta3^step)
    uncorrected_eps_root: f32,
    // 1 / (1 - beta^step)
    inverse_correction1: f32,
    inverse_correction2: f32,
    // 1 / sqrt(1 - beta3^step)
    inverse_root_correction3: f32,
}

struct State {
    exp_avg: vec4<f32>,
    exp_avg_diff: vec4<f32>,
    exp_avg_sq: vec4<f32>,
    prev_grad: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let before = select((*s).prev_grad, e.g, (*s).prev_grad >= vec4<f32>(NONE_BEFORE));
    let difference = h.has_difference * (e.g - before);
    let exp_avg = average((*s).exp_avg, e.g, h.beta1, h.beta1_complement);
    let exp_avg_diff = average((*s).exp_avg_diff, difference, h.beta2, h.beta2_complement);
    let exp_avg_sq = average((*s).exp_avg_sq, square(e.g + h.beta2_complement * difference), h.beta3, h.beta3_complement);
    *s = State(exp_avg, exp_avg_diff, exp_avg_sq, e.g);
    let step = h.inverse_correction1 * exp_avg + h.beta2_complement * h.inverse_correction2 * exp_avg_diff;
    // The root first: a corrected second moment can leave f32 where its root does not.
    return step / (sqrt(exp_avg_sq + h.uncorrected_eps_root) * h.inverse_root_correction3 + h.eps);
}
