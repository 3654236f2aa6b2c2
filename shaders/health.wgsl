// Health: what the update did to the parameters, summed up block by block as they pass.

var<private> of_weights: vec3<f32>;
var<private> of_change: vec3<f32>;

fn watch(before: vec4<f32>, after: vec4<f32>, count: u32) {
    let mine = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
    of_weights += squares(select(vec4<f32>(), before, mine));
    of_change += squares(select(vec4<f32>(), after - before, mine));
}

// Must be called in uniform control flow.
fn report_health(block: Block, thread: u32) {
    let weights = Partial(of_weights.x, of_weights.y, of_weights.z, 0.0, 0u, 0u, vec2<u32>());
    let of_block = sum_over_workgroup(thread, weights);
    workgroupBarrier();
    let change = Partial(of_change.x, of_change.y, of_change.z, 0.0, 0u, 0u, vec2<u32>());
    let change_of_block = sum_over_workgroup(thread, change);
    if thread == 0u {
        partials[block.partial] = of_block;
        partials[settings.blocks + block.partial] = change_of_block;
    }
}
