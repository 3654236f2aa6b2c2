// Zeroes the gradients that `load_gradients` reads.

fn clear_gradients(element: u32, count: u32) {
    write_gradients(element / 4u, vec4<u32>());
}
