// Up to four gradients at any word. The words past `count` are a neighbour's: they load as zero.

fn load_gradients(element: u32, count: u32) -> vec4<u32> {
    var values = vec4<u32>(read_gradients(element), 0u, 0u, 0u);
    if count > 1u { values.y = read_gradients(element + 1u); }
    if count > 2u { values.z = read_gradients(element + 2u); }
    if count > 3u { values.w = read_gradients(element + 3u); }
    return values;
}
