// Rprop (Riedmiller & Braun 1993), PyTorch's form: where the sign turns, the gradient counts as zero.

struct Hyper {
    shrink: f32,
    grow: f32,
    least: f32,
    largest: f32,
}

struct State {
    prev: vec4<f32>,
    step_size: vec4<f32>,
}

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    let agreement = sign(e.g) * sign((*s).prev);
    let turned = agreement < vec4<f32>();
    var factor = select(vec4<f32>(1.0), vec4<f32>(h.grow), agreement > vec4<f32>());
    factor = select(factor, vec4<f32>(h.shrink), turned);
    let step_size = clamp((*s).step_size * factor, vec4<f32>(h.least), vec4<f32>(h.largest));
    let kept = select(e.g, vec4<f32>(), turned);
    (*s).prev = kept;
    (*s).step_size = step_size;
    return sign(kept) * step_size;
}
