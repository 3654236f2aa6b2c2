// Momentum as a moving average of gradients: v = beta*v + (1 - beta)*g from v = 0, the textbook form
// (Ng's "gradient descent with momentum"). It differs from sgd's momentum by the factor (1 - beta).

override NESTEROV: bool = false;

struct Hyper {
    beta: f32,
    beta_complement: f32,
}

struct State {
    momentum_buffer: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let velocity = average_wide((*s).momentum_buffer, e.g, h.beta, h.beta_complement);
    (*s).momentum_buffer = velocity;
    if NESTEROV {
        return average_wide(velocity, e.g, h.beta, h.beta_complement);
    }
    return velocity;
}
