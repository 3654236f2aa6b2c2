// What a rule's maths sees of four elements. Beside the rule; the engine makes it, and members may join it.

struct Element {
    // Parameters before the step.
    p: vec4<f32>,
    // Gradients as the rule sees them.
    g: vec4<f32>,
}
