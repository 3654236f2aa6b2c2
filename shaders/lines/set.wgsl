// Lines of a tensor (rows, columns, units), all of one kind. `LineSet` and `LineJob` in
// `src/gpu/abi.rs`.

struct LineSet {
    tensor: u32,
    kind: u32,
    // Lines, and elements of each.
    count: u32,
    length: u32,
    // The k-th element of a line is line / inner * outer + line % inner + k * stride.
    stride: u32,
    inner: u32,
    outer: u32,
    // Threads that share a line in a job, a power of two, and elements of a line that a job takes.
    threads: u32,
    steps: u32,
    // Where the lines' parts are and how many each has, and where the result goes.
    partials_at: u32,
    parts: u32,
    out_at: u32,
}

fn line_set_at(index: u32) -> LineSet {
    return load_line_set(settings.line_sets_at + index * LINE_SET_WORDS);
}

// A unit's factor for the adaptive clip: parts of gradients, then of parameters.
const UNITS: u32 = 0u;
// A moving average over the steps of the mean square.
const AVERAGE: u32 = 1u;
// The mean of what there is one of for each row.
const MEAN: u32 = 2u;

// A workgroup's share of a set of lines: some lines, a stretch of each, of one part of the tensor.
struct LineJob {
    line_set: u32,
    first_line: u32,
    // The first element of the stretch, and its place among the parts of a line.
    from_element: u32,
    part: u32,
    // The part of the tensor: its elements, the place of its first in the binding, of that one's state, and words of
    // state a block.
    first_element: u32,
    end_element: u32,
    start: u32,
    state: u32,
    block_state: u32,
    // Not a vector, whose alignment would round the whole up.
    spare0: u32,
    spare1: u32,
    spare2: u32,
}
