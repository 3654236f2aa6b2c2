// What a rule's ratio is made of.

struct Norms {
    // Of the tensor's parameters and of its update.
    params: f32,
    update: f32,
    // How many the tensor has.
    elements: f32,
    // Of the step, which multiplies the ratio.
    lr: f32,
}
