// The mean square of four elements from the means of their rows and columns. `LineHeader` in
// `src/gpu/abi.rs` says where a tensor's are.

// Where a row and a column of huge gradients cross, their product can leave f32.
const LARGEST_MEAN_SQUARE: f32 = 0x1p127f;

fn factored_mean_square(block: Block, i: u32) -> vec4<f32> {
    let header = 8u * block.tensor;
    let rows_at = lines[header + 2u];
    let columns_at = lines[header + 3u];
    let means_at = lines[header + 4u];
    let rows = lines[header + 5u];
    let columns = lines[header + 6u];
    let element = block.number * BLOCK + i;
    var row = element / columns;
    var column = element - row * columns;
    var result = vec4<f32>();
    // The last components of a ragged tensor read past its rows, and nobody reads their result.
    for (var k = 0u; k < 4u; k += 1u) {
        let matrix = row / rows;
        let of_row = bitcast<f32>(lines[rows_at + row]) / bitcast<f32>(lines[means_at + matrix]);
        let of_column = bitcast<f32>(lines[columns_at + matrix * columns + column]);
        // Bounded before the product, which a compiler may assume to be finite; by a comparison, so that NaN stays.
        let most = LARGEST_MEAN_SQUARE / max(of_row, 1.0);
        let bounded = select(of_column, most, of_column > most);
        // By shifting: FXC refuses to write to a component that an index names.
        result = vec4<f32>(result.yzw, of_row * bounded);
        column += 1u;
        if column == columns {
            column = 0u;
            row += 1u;
        }
    }
    return result;
}
