// A weight as it is stored.

fn weight_at(element: u32, block: Block, i: u32) -> f32 {
    return bitcast<f32>(param_at(element));
}
