// Zeroes the gradients that `load_gradients` reads, and no neighbour's.

fn clear_gradients(element: u32, count: u32) {
    for (var i = 0u; i < count; i += 1u) {
        write_gradients(element + i, 0u);
    }
}
