// What a workgroup of the kernels that add parts up does, by group of blocks or by tensor.

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(2) var<storage, read> partials: array<Partial>;
@group(0) @binding(3) var<storage, read_write> sums: array<Partial>;

// Adds `count` parts up from the first on, in fixed order. Must be called in uniform control flow.
fn sum_parts(thread: u32, first: u32, count: u32, out: u32) {
    var mine = Partial();
    for (var i = thread; i < count; i += WORKGROUP) {
        mine = add(mine, partials[first + i]);
    }
    let total = sum_over_workgroup(thread, mine);
    if thread == 0u {
        sums[out] = total;
    }
}
