// A weight with its f32 copy, as `weights/master.wgsl` chooses between the two.

fn weight_at(element: u32, block: Block, i: u32) -> f32 {
    let stored = param_at(element);
    let copy = state_f32(master_word(block, i / 4u * 4u))[i % 4u];
    return bitcast<f32>(select(stored, copy, narrow_param(stored) == narrow_param(copy)));
}
