// Parameters of 16 bits to the f32 that the network computes in, four an invocation.

@group(0) @binding(0) var<storage, read> stored: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> computed: array<vec4<u32>>;

@compute @workgroup_size(64)
fn convert(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&computed) {
        computed[id.x] = widened(stored[id.x]);
    }
}
