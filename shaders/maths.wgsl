// What rules share. `src/maths.rs` is the twin.

// Moving average that gives `value` the weight w. Two forms, so that neither end loses digits: with
// beta = 0.999 the form beta*old + (1 - beta)*value settles 3e-5 off in f32, since the rounded factors
// no longer add up to one.
fn average(old: vec4<f32>, value: vec4<f32>, w: f32) -> vec4<f32> {
    if w < 0.5 {
        return old + w * (value - old);
    }
    return value - (1.0 - w) * (value - old);
}

// The largest number whose square is one in f32.
const LARGEST_ROOT: f32 = 0x1.fffffep+63f;

// Square that stays finite: an infinite moving average would never come back. Bounded before, not after: a compiler
// may assume that no product is infinite, and drop the bound.
fn square(x: vec4<f32>) -> vec4<f32> {
    let bounded = clamp(x, vec4<f32>(-LARGEST_ROOT), vec4<f32>(LARGEST_ROOT));
    return bounded * bounded;
}
