// Scan: one read of the gradients gives each block's part of the sum of squares, its largest
// magnitude and its count of non-finite elements, which have no part in the others where they are
// tested for.

override NORM: bool = true;
override LARGEST: bool = false;
override ZEROS: bool = false;
override TEST_NONFINITE: bool = true;
// Whether non-finite elements are counted as each micro-batch brings them, for want of a trace in the sum.
override COUNT_EACH: bool = false;
// Whether blocks whose norm nobody limits have no part in the sums of sizes.
override SPARES: bool = false;

fn loaded(block: Block, i: u32, unscale: f32) -> vec4<u32> {
    return with_accumulated(load_gradients(gradient_element(block, i), 4u), block, i, unscale);
}

// The largest bits of magnitudes, and the smallest but for zeros.
struct Sizes {
    top: u32,
    bottom: u32,
}

fn largest_size(words: vec4<u32>) -> u32 {
    let size = words & vec4<u32>(0x7fffffffu);
    return max(max(size.x, size.y), max(size.z, size.w));
}

// Zero, less one, is the largest.
fn widened(sizes: Sizes, words: vec4<u32>) -> Sizes {
    let low = (words & vec4<u32>(0x7fffffffu)) - vec4<u32>(1u);
    let bottom = min(min(low.x, low.y), min(low.z, low.w));
    return Sizes(max(sizes.top, largest_size(words)), min(sizes.bottom, bottom));
}

fn are_usual(sizes: Sizes) -> bool {
    return sizes.top < bitcast<u32>(LARGE) && sizes.bottom >= bitcast<u32>(SMALL) - 1u;
}

fn square_of_usual(words: vec4<u32>, unscale: f32, sizes: ptr<function, Sizes>) -> f32 {
    let g = condition(words, unscale);
    *sizes = widened(*sizes, bitcast<vec4<u32>>(g));
    if UNSCALE || CLIP_VALUE || ZERO_NONFINITE {
        // What is loaded counts as well: a clip makes something of an infinity.
        let top = largest_size(words);
        (*sizes).top = max((*sizes).top, select(0u, top, top >= 0x7f800000u));
    }
    return dot(g, g);
}

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
    let block = block_at(row);
    if is_absent(block.tensor) || !(COUNT_EACH || completes_step(control.micro)) {
        return;
    }
    let unscale = control.unscale;
    var sums = vec3<f32>();
    var largest = 0.0;
    var bad = vec4<u32>();
    var zeros = vec4<u32>();
    // Magnitudes that are safe to square, all finite, need one sum of the three. Whether they are is known at the end, and
    // what the loop below reads again where they are not is seldom much.
    var usual = false;
    if NORM && !LARGEST && !ZEROS && block.len == BLOCK {
        var sizes = Sizes(0u, 0xffffffffu);
        for (var i = thread * 4u; i < BLOCK; i += WORKGROUP * 16u) {
            // Four loads under way at a time.
            let a = loaded(block, i, unscale);
            let b = loaded(block, i + WORKGROUP * 4u, unscale);
            let c = loaded(block, i + WORKGROUP * 8u, unscale);
            let d = loaded(block, i + WORKGROUP * 12u, unscale);
            sums.y += square_of_usual(a, unscale, &sizes);
            sums.y += square_of_usual(b, unscale, &sizes);
            sums.y += square_of_usual(c, unscale, &sizes);
            sums.y += square_of_usual(d, unscale, &sizes);
        }
        usual = are_usual(sizes);
        sums = select(vec3<f32>(), sums, usual);
    }
    let end = select(block.len, 0u, usual);
    for (var i = thread * 4u; i < end; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let loaded = load_gradients(gradient_element(block, i), count);
        let words = with_accumulated(loaded, block, i, unscale);
        // A vector's last components may be padding, whose content is nobody's.
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
    var total = sum_over_workgroup(thread, mine);
    if thread == 0u {
        if SPARES && block.unclipped != 0u {
            total = Partial(0.0, 0.0, 0.0, 0.0, total.count, 0u, vec2<u32>());
        }
        partials[block.partial] = total;
    }
}
