// LAMB (You et al. 2020), Optax's form: Adam's direction with decay added, times the ratio of the
// tensor's norm to its own; a zero norm gives the ratio 1.

struct Hyper {
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    eps: f32,
    // eps_root * (1 - beta2^step)
    uncorrected_eps_root: f32,
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
    let exp_avg_sq = average((*s).exp_avg_sq, square(e.g), h.beta2, h.beta2_complement);
    *s = State(exp_avg, exp_avg_sq);
    // The root first: a corrected second moment can leave f32 where its root does not.
    let root = sqrt(exp_avg_sq + h.uncorrected_eps_root) * h.inverse_root_correction2;
    return h.inverse_correction1 * exp_avg / (root + h.eps);
}

fn ratio(norms: Norms, h: Hyper) -> f32 {
    if norms.params == 0.0 || norms.update == 0.0 {
        return 1.0;
    }
    return norms.params / norms.update;
}

fn finish(e: Element, step: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    return step;
}
