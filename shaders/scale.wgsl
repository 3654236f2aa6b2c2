// What the norm of the gradients does to them.

// Whether it does anything.
override SCALE: bool = false;

fn scaled(g: vec4<f32>, decision: Decision) -> vec4<f32> {
    if !SCALE {
        return g;
    }
    // Not one product of both factors: it can leave f32 where the result does not.
    var result = g;
    if decision.exponent != 0 {
        result = ldexp(g, vec4<i32>(decision.exponent));
    }
    return result * decision.coefficient;
}
