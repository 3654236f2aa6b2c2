// Adagrad (Duchi, Hazan & Singer 2011), PyTorch's form: eps outside the root.

struct Hyper {
    eps: f32,
    // 1 / (1 + (step - 1)*lr_decay)
    lr_factor: f32,
}

struct State {
    sum: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let sum = saturated((*s).sum, square(e.g));
    (*s).sum = sum;
    return h.lr_factor * e.g / (sqrt(sum) + h.eps);
}
