// Sums along lines of tensors. One workgroup serves a job: some lines, and a stretch of each.

// Threads whose parts one thread adds up.
const FAN: u32 = 16u;

var<workgroup> shares: array<vec4<f32>, WORKGROUP>;

// The sum over the threads of a line, in the first of them, in fixed order. Must be called in uniform
// control flow.
fn sum_over_line(place: u32, share: u32, threads: u32, mine: vec3<f32>) -> vec3<f32> {
    shares[place] = vec4<f32>(mine, 0.0);
    workgroupBarrier();
    var sum = mine;
    if share % FAN == 0u {
        for (var i = 1u; i < min(FAN, threads); i += 1u) {
            sum += shares[place + i].xyz;
        }
        shares[place] = vec4<f32>(sum, 0.0);
    }
    workgroupBarrier();
    if share == 0u {
        for (var i = FAN; i < threads; i += FAN) {
            sum += shares[place + i].xyz;
        }
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP)
fn sum_lines(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let range = job_range();
    let index = group.y * groups.x + group.x;
    if index >= range.y {
        return;
    }
    let job = jobs[range.x + index];
    let lines_of = line_set_at(job.line_set);
    let decision = decision_of(lines_of.tensor);
    if decision.action != TAKE {
        return;
    }
    // Neighbouring threads read neighbouring elements: of one line where its elements are neighbours,
    // else of several.
    let lines_here = WORKGROUP / lines_of.threads;
    var line = thread / lines_of.threads;
    var share = thread % lines_of.threads;
    if lines_of.stride != 1u {
        line = thread % lines_here;
        share = thread / lines_here;
    }
    let number = job.first_line + line;
    var first = vec3<f32>();
    var second = vec3<f32>();
    // Whether the stretch of this line meets the job's part of the tensor: the place of its sum is another job's
    // where it does not.
    var meets = false;
    if number < lines_of.count {
        let base = number / lines_of.inner * lines_of.outer + number % lines_of.inner;
        let end = min(job.from_element + lines_of.steps, lines_of.length);
        meets = base + job.from_element * lines_of.stride < job.end_element
            && base + (end - 1u) * lines_of.stride >= job.first_element;
        for (var k = job.from_element + share; k < end; k += lines_of.threads) {
            let element = base + k * lines_of.stride;
            if element >= job.first_element && element < job.end_element {
                first += value(job, lines_of, element, decision);
                if PAIRS {
                    second += second_value(job, element);
                }
            }
        }
    }
    let place = line * lines_of.threads + share;
    let writes = share == 0u && meets;
    let at = lines_of.partials_at + job.part * lines_of.count + number;
    let total = sum_over_line(place, share, lines_of.threads, first);
    if writes {
        line_partials[at] = vec4<f32>(total, 0.0);
    }
    if PAIRS {
        workgroupBarrier();
        let second_total = sum_over_line(place, share, lines_of.threads, second);
        if writes {
            line_partials[at + lines_of.parts * lines_of.count] = vec4<f32>(second_total, 0.0);
        }
    }
}
