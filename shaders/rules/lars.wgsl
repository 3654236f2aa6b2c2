// LARS (You, Gitman & Ginsburg 2017), Optax's form: the gradient with decay added, times the
// coefficient and the ratio of the tensor's norm to its own; the buffer holds steps, learning rate
// included. A zero norm gives the ratio 1, without the coefficient.

override NESTEROV: bool = false;

struct Hyper {
    momentum: f32,
    trust_coefficient: f32,
    eps: f32,
}

struct State {
    momentum_buffer: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    return e.g;
}

fn ratio(norms: Norms, h: Hyper) -> f32 {
    if norms.params == 0.0 || norms.update == 0.0 {
        return 1.0;
    }
    return h.trust_coefficient * norms.params / (norms.update + h.eps);
}

fn finish(e: Element, step: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let buffer = step + h.momentum * (*s).momentum_buffer;
    (*s).momentum_buffer = buffer;
    if NESTEROV {
        return step + h.momentum * buffer;
    }
    return buffer;
}
