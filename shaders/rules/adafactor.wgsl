// Adafactor (Shazeer & Stern 2018), PyTorch's form. The engine keeps the mean square: of matrices by
// rows and columns only.

struct Hyper {
    // What is kept of the mean square, this step's weight in it, and the least mean of a matrix's rows: the engine reads
    // these three.
    beta2: f32,
    beta2_complement: f32,
    eps1: f32,
    eps1_squared: f32,
    eps2: f32,
    d: f32,
    // Root of the step's number.
    root_step: f32,
}

struct State {
    variance: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    return e.g / sqrt(max((*s).variance, vec4<f32>(h.eps1_squared)));
}

// max(eps2, RMS(p)) * min(lr, 1 / root_step) / lr / max(1, RMS(u) / d)
fn ratio(norms: Norms, h: Hyper) -> f32 {
    let root = sqrt(norms.elements);
    let size = max(norms.params / root, h.eps2);
    // Not 1 / (lr * root_step), whose product can leave f32.
    let most = 1.0 / h.root_step;
    var share = 1.0;
    if norms.lr > most {
        share = most / norms.lr;
    }
    return size * share / max(norms.update / root / h.d, 1.0);
}

fn finish(e: Element, step: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    return step;
}
