// The gradients that the network has computed to the 16 bits that they are stored in, four an
// invocation.

@group(0) @binding(0) var<storage, read> computed: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> stored: array<vec2<u32>>;

@compute @workgroup_size(64)
fn convert(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&stored) {
        stored[id.x] = narrowed(computed[id.x]);
    }
}
