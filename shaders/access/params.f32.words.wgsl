// Up to four parameters at any word. The words past `count` are a neighbour's: neither read nor
// written; they load as zero.

fn load_params(element: u32, count: u32) -> vec4<u32> {
    var values = vec4<u32>(params[element], 0u, 0u, 0u);
    if count > 1u { values.y = params[element + 1u]; }
    if count > 2u { values.z = params[element + 2u]; }
    if count > 3u { values.w = params[element + 3u]; }
    return values;
}

fn store_params(element: u32, count: u32, values: vec4<u32>) {
    params[element] = values.x;
    if count > 1u { params[element + 1u] = values.y; }
    if count > 2u { params[element + 2u] = values.z; }
    if count > 3u { params[element + 3u] = values.w; }
}
