// RMSprop (Tieleman & Hinton 2012), centred after Graves 2013, PyTorch's form: eps outside the root.

override CENTERED: bool = false;
override MOMENTUM: bool = false;

struct Hyper {
    alpha: f32,
    alpha_complement: f32,
    eps: f32,
    momentum: f32,
}

struct State {
    square_avg: vec4<f32>,
    grad_avg: vec4<f32>,
    momentum_buffer: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let square_avg = average((*s).square_avg, square(e.g), h.alpha, h.alpha_complement);
    (*s).square_avg = square_avg;
    var variance = square_avg;
    if CENTERED {
        let grad_avg = average((*s).grad_avg, e.g, h.alpha, h.alpha_complement);
        (*s).grad_avg = grad_avg;
        // Rounding can leave the difference below zero, where PyTorch's root gives NaN.
        variance = max(square_avg - grad_avg * grad_avg, vec4<f32>());
    }
    let scaled = e.g / (sqrt(variance) + h.eps);
    if !MOMENTUM {
        return scaled;
    }
    let buffer = h.momentum * (*s).momentum_buffer + scaled;
    (*s).momentum_buffer = buffer;
    return buffer;
}
