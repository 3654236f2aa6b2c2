// Up to four gradients of 16 bits from any whole word on. What is past `count` is a neighbour's: it
// loads as zero.

fn load_gradients(element: u32, count: u32) -> vec4<u32> {
    var words = vec2<u32>(read_gradients(element / 2u), 0u);
    if count > 2u { words.y = read_gradients(element / 2u + 1u); }
    if count == 1u { words.x &= 0xffffu; }
    if count == 3u { words.y &= 0xffffu; }
    return widen_gradients(words);
}
