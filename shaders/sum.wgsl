// The sum of the threads' parts over a workgroup, in fixed order.

// Threads whose parts one thread adds up. Two levels of sixteen take two barriers, a binary tree
// takes eight.
const FAN: u32 = 16u;

var<workgroup> parts: array<Partial, WORKGROUP>;

// Whether a part has more than squares of usual magnitudes. Few have: then one word of each is read instead of six.
fn has_more(part: Partial) -> u32 {
    return bitcast<u32>(part.small) | bitcast<u32>(part.large) | bitcast<u32>(part.largest) | part.count | part.zeros;
}

// The sum of parts[first], parts[first + stride] and so on, `count` in all.
fn sum_of(first: u32, count: u32, stride: u32) -> Partial {
    var sum = Partial();
    sum.middle = parts[first].middle;
    var more = parts[first].spare.x;
    for (var i = 1u; i < count; i += 1u) {
        sum.middle += parts[first + i * stride].middle;
        more |= parts[first + i * stride].spare.x;
    }
    if more != 0u {
        sum = parts[first];
        for (var i = 1u; i < count; i += 1u) {
            sum = add(sum, parts[first + i * stride]);
        }
    }
    sum.spare.x = more;
    return sum;
}

// The sum over the workgroup, in thread 0. Must be called in uniform control flow.
fn sum_over_workgroup(thread: u32, mine: Partial) -> Partial {
    parts[thread] = mine;
    parts[thread].spare.x = has_more(mine);
    workgroupBarrier();
    if thread % FAN == 0u {
        parts[thread] = sum_of(thread, min(FAN, WORKGROUP), 1u);
    }
    workgroupBarrier();
    var total = Partial();
    if thread == 0u {
        total = sum_of(0u, max(WORKGROUP / FAN, 1u), FAN);
        total.spare.x = 0u;
    }
    return total;
}
