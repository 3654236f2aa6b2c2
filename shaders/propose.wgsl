// What the rule makes of four elements, before anything is stored. Measure and update share it: a
// rule that needs the norm of its own update computes it twice rather than store it between.

// Whether the rule takes gradients of any size; else it sees them held.
override ANY_GRADIENT: bool = false;
// Whether NaN can arrive, and must go on.
override PROPAGATE: bool = false;

struct Proposal {
    e: Element,
    // The rule's direction, with the decay that belongs to its norm.
    u: vec4<f32>,
    s: State,
}

// The gradient with its decay, as the rule sees it.
fn as_seen(g: vec4<f32>, decay: vec4<f32>, words: vec4<u32>) -> vec4<f32> {
    if ANY_GRADIENT {
        return saturated(g, decay);
    }
    let seen = held(g + decay);
    if PROPAGATE {
        return select(seen, g, is_nan(words));
    }
    return seen;
}

fn propose(block: Block, i: u32, count: u32, decision: Decision, track: Track, h: Hyper) -> Proposal {
    let words = with_accumulated(load_gradients(gradient_element(block, i), count), block, i, track.unscale);
    var g = by_unit(scaled(condition(words, track.unscale), decision), block, i);
    let p = load_weights(block, i, count);
    g = as_seen(track.sign * g, track.coupled * p, words);
    var s = with_mean_square(load_state(block, i), g, block, i, track);
    let e = Element(p, g);
    let u = direction(e, &s, h) + track.in_ratio * p;
    return Proposal(e, u, s);
}

// Which elements a cautious mask keeps. By signs, since the product can underflow.
fn agrees(proposal: Proposal) -> vec4<bool> {
    return sign(proposal.u) * sign(proposal.e.g) > vec4<f32>();
}
