// Random bits by counter: of the tensor and its step (`Decision`), of the element, of a stream. Nothing
// of how a kernel is launched matters. `src/storage/noise.rs` is the twin.

// PCG4D (Jarzynski & Olano 2020).
fn pcg4d(counter: vec4<u32>) -> vec4<u32> {
    var v = counter * vec4<u32>(1664525u) + vec4<u32>(1013904223u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4<u32>(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

// 32 bits for each of four elements, in which two streams have a half each.
fn noise_of(noise: vec2<u32>, block: Block, i: u32, pair: u32) -> vec4<u32> {
    // A block has 1024 groups of four.
    return pcg4d(vec4<u32>(block.number * 1024u + i / 4u, noise, pair));
}
