// Four gradients of 16 bits at a multiple of four. All belong to the tensor.

fn load_gradients(element: u32, count: u32) -> vec4<u32> {
    return widen_gradients(read_gradients(element / 4u));
}
