// Zeroes the gradients that `load_gradients` reads, and no neighbour's.

fn clear_gradients(element: u32, count: u32) {
    for (var i = 0u; i < count; i += 2u) {
        let word = (element + i) / 2u;
        write_gradients(word, select(read_gradients(word) & 0xffff0000u, 0u, i + 1u < count));
    }
}
