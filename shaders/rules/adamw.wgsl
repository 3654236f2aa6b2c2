// AdamW (Loshchilov & Hutter 2019): Adam's direction; the engine shrinks p beside it.

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    return adam(e.g, s, h);
}

