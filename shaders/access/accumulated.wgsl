// Keeps the sum of micro-batches.

fn store_accumulated(block: Block, i: u32, sum: vec4<u32>) {
    set_state_f32(block.state + i, sum);
}
