// State is stored element by element.

fn begin_state(thread: u32) {}

fn finish_state(block: Block, i: u32, count: u32) {}
