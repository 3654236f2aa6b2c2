// Four parameters of 16 bits at a multiple of four. All belong to the tensor.

fn load_params(element: u32, count: u32) -> vec4<u32> {
    return widen_params(read_params(element / 4u));
}

fn store_params(element: u32, count: u32, halves: vec4<u32>) {
    write_params(element / 4u, join_halves(halves));
}
