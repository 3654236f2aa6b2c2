// Four parameters at a word that is a multiple of four. All four words belong to the tensor.

fn load_params(element: u32, count: u32) -> vec4<u32> {
    return read_params(element / 4u);
}

fn store_params(element: u32, count: u32, values: vec4<u32>) {
    write_params(element / 4u, values);
}
