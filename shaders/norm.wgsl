// Scan: one read of the gradients gives each block's part of the sum of squares, its largest
// magnitude and its count of non-finite elements, which have no part in the others where they are
// tested for.

override NORM: bool = true;
override LARGEST: bool = false;
override ZEROS: bool = false;
override TEST_NONFINITE: bool = true;
// Whether non-finite elements are counted as each micro-batch brings them, for want of a trace in the sum.
override COUNT_EACH: bool = false;

@group(1) @binding(0) var<storage, read> blocks: array<Block>;
@group(1) @binding(1) var<uniform> settings: Settings;
@group(1) @binding(2) var<storage, read> absent: array<u32>;
@group(1) @binding(3) var<storage, read_write> partials: array<Partial>;
@group(1) @binding(4) var<storage, read> control: Control;

@compute @workgroup_size(WORKGROUP)
fn scan(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = row_of(group, groups);
    if row == NO_ROW {
        return;
    }
    let block = blocks[row];
    if absent[block.tensor] != 0u || !(COUNT_EACH || completes_step(control.micro)) {
        return;
    }
    let unscale = control.unscale;
    var sums = vec3<f32>();
    var largest = 0.0;
    var bad = vec4<u32>();
    var zeros = vec4<u32>();
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let loaded = load_gradients(gradient_element(block, i), count);
        let words = with_accumulated(loaded, block, i, unscale);
        // A vector's last lanes may be padding, whose content is nobody's.
        let mine = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
        var g = select(vec4<f32>(), condition(words, unscale), mine);
        if TEST_NONFINITE {
            let found = nonfinite(words) & mine;
            bad += select(vec4<u32>(), vec4<u32>(1u), select(found, nonfinite(loaded) & mine, vec4<bool>(COUNT_EACH)));
            g = select(g, vec4<f32>(), found);
        }
        if ZEROS {
            // By the bits without the sign: a device may flush what is nearly zero.
            let is_zero = ((words & vec4<u32>(0x7fffffffu)) == vec4<u32>()) & mine;
            zeros += select(vec4<u32>(), vec4<u32>(1u), is_zero);
        }
        if NORM {
            sums += squares(g);
        }
        if LARGEST {
            largest = max(largest, largest_of(g));
        }
    }
    let count = bad.x + bad.y + bad.z + bad.w;
    let zero_count = zeros.x + zeros.y + zeros.z + zeros.w;
    let mine = Partial(sums.x, sums.y, sums.z, largest, count, zero_count, vec2<u32>());
    let total = sum_over_workgroup(thread, mine);
    if thread == 0u {
        partials[block.partial] = total;
    }
}
