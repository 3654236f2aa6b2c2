// Schedule-free AdamW (Defazio et al. 2024, "The Road Less Scheduled"), the paper's form. z takes the
// steps, x averages them, and the gradient is taken at y = (1 - beta1)*z + beta1*x, which is the
// parameter; x is not stored.

struct Hyper {
    // Of the learning rate: bias correction and warm-up.
    size: f32,
    beta1: f32,
    beta1_complement: f32,
    beta2: f32,
    beta2_complement: f32,
    eps: f32,
    // 1 at the first step, where z starts from y.
    first: f32,
}

struct State {
    z: vec4<f32>,
    exp_avg_sq: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let exp_avg_sq = average((*s).exp_avg_sq, square(e.g), h.beta2, h.beta2_complement);
    (*s).exp_avg_sq = exp_avg_sq;
    return e.g / (sqrt(exp_avg_sq) + h.eps);
}

// With d = size*step, z <- z - d and x <- x + share*(z - x), y moves by share*(y - z) + (1 - beta1 + beta1*share)*d.
// In rows that joined the tensor after its first step z is NaN, and starts from y too.
fn averaged(e: Element, step: vec4<f32>, share: f32, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let z = select((*s).z, e.p, is_nan(pack((*s).z)) | vec4<bool>(h.first != 0.0));
    let d = h.size * step;
    (*s).z = z - d;
    return share * (e.p - z) + (h.beta1_complement + h.beta1 * share) * d;
}

// x
fn evaluated(e: Element, s: State, h: Hyper) -> vec4<f32> {
    return select((e.p - h.beta1_complement * s.z) / h.beta1, e.p, is_nan(pack(s.z)));
}
