// The factor of each unit's gradient. `LineHeader` in `src/gpu/abi.rs` says where a tensor's are.

fn unit_factor(tensor: u32, element: u32) -> f32 {
    let header = 8u * tensor;
    return bitcast<f32>(lines[lines[header] + element % lines[header + 1u]]);
}

fn by_unit(g: vec4<f32>, block: Block, i: u32) -> vec4<f32> {
    let header = 8u * block.tensor;
    let first = lines[header];
    let units = lines[header + 1u];
    var unit = (block.number * BLOCK + i) % units;
    var factors = vec4<f32>();
    for (var k = 0u; k < 4u; k += 1u) {
        // By shifting: FXC refuses to write to a component that an index names.
        factors = vec4<f32>(factors.yzw, bitcast<f32>(lines[first + unit]));
        unit += 1u;
        if unit == units {
            unit = 0u;
        }
    }
    return g * factors;
}
