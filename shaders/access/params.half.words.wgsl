// Up to four parameters of 16 bits from any whole word on. What is past `count` is a neighbour's: it
// loads as zero, and its half of a word is kept. No tensor starts within a word, so that nothing else
// writes to that word in the same dispatch.

fn load_params(element: u32, count: u32) -> vec4<u32> {
    var words = vec2<u32>(read_params(element / 2u), 0u);
    if count > 2u { words.y = read_params(element / 2u + 1u); }
    if count == 1u { words.x &= 0xffffu; }
    if count == 3u { words.y &= 0xffffu; }
    return widen_params(words);
}

fn store_params(element: u32, count: u32, halves: vec4<u32>) {
    let word = element / 2u;
    var words = join_halves(halves);
    if count == 1u { words.x = (words.x & 0xffffu) | (read_params(word) & 0xffff0000u); }
    write_params(word, words.x);
    if count > 2u {
        if count == 3u { words.y = (words.y & 0xffffu) | (read_params(word + 1u) & 0xffff0000u); }
        write_params(word + 1u, words.y);
    }
}
