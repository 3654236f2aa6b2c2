// Adadelta (Zeiler 2012), PyTorch's form: eps inside both roots.

struct Hyper {
    rho: f32,
    rho_complement: f32,
    eps: f32,
}

struct State {
    square_avg: vec4<f32>,
    acc_delta: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let square_avg = average((*s).square_avg, square(e.g), h.rho, h.rho_complement);
    let delta = sqrt((*s).acc_delta + h.eps) / sqrt(square_avg + h.eps) * e.g;
    (*s).square_avg = square_avg;
    (*s).acc_delta = average((*s).acc_delta, square(delta), h.rho, h.rho_complement);
    return delta;
}
