// A step's traffic without its maths: `update` reads parameters, gradients and state and writes all
// but the gradients, `scan` reads the gradients, `measure` reads everything. Workgroups and state lie
// as the engine's do: 4,096 elements a workgroup, slot after slot within them.

override SLOTS: u32;

const BLOCK: u32 = 1024u;
override WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<storage, read_write> params: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> gradients: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> state: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> seen: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * BLOCK;
    let len = min(arrayLength(&params) - first, BLOCK);
    for (var i = thread; i < len; i += WORKGROUP) {
        let g = gradients[first + i];
        params[first + i] ^= g;
        for (var slot = 0u; slot < SLOTS; slot++) {
            state[SLOTS * first + slot * len + i] ^= g;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn scan(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * BLOCK;
    let len = min(arrayLength(&gradients) - first, BLOCK);
    var bits = vec4<u32>();
    for (var i = thread; i < len; i += WORKGROUP) {
        bits ^= gradients[first + i];
    }
    keep(bits);
}

@compute @workgroup_size(WORKGROUP)
fn measure(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * BLOCK;
    let len = min(arrayLength(&params) - first, BLOCK);
    var bits = vec4<u32>();
    for (var i = thread; i < len; i += WORKGROUP) {
        bits ^= params[first + i] ^ gradients[first + i];
        for (var slot = 0u; slot < SLOTS; slot++) {
            bits ^= state[SLOTS * first + slot * len + i];
        }
    }
    keep(bits);
}

// Hardly ever stores anything, but the compiler must read it all to know.
fn keep(bits: vec4<u32>) {
    if all(bits == vec4<u32>(0x7fc00001u)) {
        seen[0] = 1u;
    }
}
