// Four gradients at a word that is a multiple of four. All four words belong to the tensor.

fn load_gradients(element: u32, count: u32) -> vec4<u32> {
    return read_gradients(element / 4u);
}
