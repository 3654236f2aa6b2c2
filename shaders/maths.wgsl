// What rules share. `src/maths.rs` is the twin.

// Moving average that keeps beta of `old` and gives `value` the weight w, the complement of beta. Two forms, so that
// neither end loses digits: with beta = 0.999 the form beta*old + (1 - beta)*value settles 3e-5 off in f32, since the
// rounded factors no longer add up to one. Both come from the host, rounded from f64: 1 - w of a rounded w would be 3e-5
// off at beta = 1e-3.
fn average(old: vec4<f32>, value: vec4<f32>, beta: f32, w: f32) -> vec4<f32> {
    if w < 0.5 {
        return old + w * (value - old);
    }
    return value - beta * (value - old);
}

// The same for numbers up to the largest of f32, whose difference can leave it: of their halves.
fn average_wide(old: vec4<f32>, value: vec4<f32>, beta: f32, w: f32) -> vec4<f32> {
    let half = 0.5 * value - 0.5 * old;
    if w < 0.5 {
        return old + 2.0 * w * half;
    }
    return value - 2.0 * beta * half;
}

const LARGEST_FLOAT: f32 = 0x1.fffffep+127f;

// Sum that stays finite. Whether it does is seen by half of it: a compiler may assume that the sum itself is finite, and
// drop a bound that follows it.
fn saturated(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let half = 0.5 * a + 0.5 * b;
    let largest = select(vec4<f32>(-LARGEST_FLOAT), vec4<f32>(LARGEST_FLOAT), half > vec4<f32>());
    return select(a + b, largest, abs(half) >= vec4<f32>(0x1p127f));
}

// The largest gradient that a rule sees which squares gradients or multiplies them. Not by far does its square leave
// f32, nor that of a difference of two, nor a sum of some hundreds of squares.
const LARGEST_SEEN: f32 = 0x1p60f;

fn held(g: vec4<f32>) -> vec4<f32> {
    return clamp(g, vec4<f32>(-LARGEST_SEEN), vec4<f32>(LARGEST_SEEN));
}

// The largest number whose square is one in f32.
const LARGEST_ROOT: f32 = 0x1.fffffep+63f;

// Square that stays finite: an infinite moving average would never come back. Bounded before, not after: a compiler
// may assume that no product is infinite, and drop the bound.
fn square(x: vec4<f32>) -> vec4<f32> {
    let bounded = clamp(x, vec4<f32>(-LARGEST_ROOT), vec4<f32>(LARGEST_ROOT));
    return bounded * bounded;
}
