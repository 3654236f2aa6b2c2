// Up to four parameters at any word. The words past `count` are a neighbour's: neither read nor
// written; they load as zero.

fn load_params(element: u32, count: u32) -> vec4<u32> {
    var values = vec4<u32>(read_params(element), 0u, 0u, 0u);
    if count > 1u { values.y = read_params(element + 1u); }
    if count > 2u { values.z = read_params(element + 2u); }
    if count > 3u { values.w = read_params(element + 3u); }
    return values;
}

fn store_params(element: u32, count: u32, values: vec4<u32>) {
    write_params(element, values.x);
    if count > 1u { write_params(element + 1u, values.y); }
    if count > 2u { write_params(element + 2u, values.z); }
    if count > 3u { write_params(element + 3u, values.w); }
}
