// Stochastic gradient descent (Robbins & Monro 1951) with heavy-ball momentum (Polyak 1964) or
// Nesterov's (Sutskever et al. 2013), in PyTorch's form: the learning rate stays outside the buffer.

override MOMENTUM: bool = false;
override NESTEROV: bool = false;

struct Hyper {
    momentum: f32,
    // 1 - dampening, but 1 on the first step: the first buffer is the gradient itself.
    undamped: f32,
}

struct State {
    momentum_buffer: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    if !MOMENTUM {
        return e.g;
    }
    let buffer = saturated(h.momentum * (*s).momentum_buffer, h.undamped * e.g);
    (*s).momentum_buffer = buffer;
    if NESTEROV {
        return saturated(e.g, h.momentum * buffer);
    }
    return buffer;
}
