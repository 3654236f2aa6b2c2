// What a workgroup of the kernels that add parts up does, by group of blocks or by tensor.

// `count` parts from the first on, added up in fixed order: in the first thread. Must be called in uniform control flow.
fn sum_parts(thread: u32, first: u32, count: u32) -> Partial {
    var mine = Partial();
    for (var i = thread; i < count; i += WORKGROUP) {
        mine = add(mine, partials[first + i]);
    }
    return sum_over_workgroup(thread, mine);
}
