// The sum of the threads' parts over a workgroup, in fixed order.

// Threads whose parts one thread adds up. Two levels of sixteen take two barriers, a binary tree
// takes eight.
const FAN: u32 = 16u;

var<workgroup> parts: array<Partial, WORKGROUP>;

// The sum over the workgroup, in thread 0. Must be called in uniform control flow.
fn sum_over_workgroup(thread: u32, mine: Partial) -> Partial {
    parts[thread] = mine;
    workgroupBarrier();
    if thread % FAN == 0u {
        var sum = mine;
        for (var i = 1u; i < min(FAN, WORKGROUP); i += 1u) {
            sum = add(sum, parts[thread + i]);
        }
        parts[thread] = sum;
    }
    workgroupBarrier();
    var total = parts[0];
    if thread == 0u {
        for (var i = FAN; i < WORKGROUP; i += FAN) {
            total = add(total, parts[i]);
        }
    }
    return total;
}
