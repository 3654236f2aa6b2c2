// Adam (Kingma & Ba 2015). Weight decay reaches it inside g.

fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
    return adam(e.g, s, h);
}

