// Find: one read of the gradients counts the elements that are not finite, straight to the control block, where a step
// needs nothing else of them. Whole numbers can be added up in any order.

// Its words.
const MICRO: u32 = 3u;
const UNSCALE_WORD: u32 = 12u;
const FOUND: u32 = 16u;
const FOUND_MORE: u32 = 17u;

fn loaded(block: Block, i: u32, count: u32, unscale: f32) -> vec4<u32> {
    return with_accumulated(load_gradients(gradient_element(block, i), count), block, i, unscale);
}

fn marks(words: vec4<u32>) -> vec4<u32> {
    return select(vec4<u32>(), vec4<u32>(1u), nonfinite(words));
}

@compute @workgroup_size(WORKGROUP)
fn find_nonfinite(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = row_of(group, groups);
    if row == NO_ROW {
        return;
    }
    let block = block_at(row);
    if is_absent(block.tensor) || !completes_step(atomicLoad(&control[MICRO])) {
        return;
    }
    let unscale = bitcast<f32>(atomicLoad(&control[UNSCALE_WORD]));
    var bad = vec4<u32>();
    if block.len == BLOCK {
        for (var i = thread * 4u; i < BLOCK; i += WORKGROUP * 16u) {
            // Four loads under way at a time.
            let a = loaded(block, i, 4u, unscale);
            let b = loaded(block, i + WORKGROUP * 4u, 4u, unscale);
            let c = loaded(block, i + WORKGROUP * 8u, 4u, unscale);
            let d = loaded(block, i + WORKGROUP * 12u, 4u, unscale);
            bad += marks(a) + marks(b) + marks(c) + marks(d);
        }
    } else {
        for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
            let count = min(block.len - i, 4u);
            // A vector's last components may be padding, whose content is nobody's.
            let mine = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(count);
            bad += select(vec4<u32>(), marks(loaded(block, i, count, unscale)), mine);
        }
    }
    let count = bad.x + bad.y + bad.z + bad.w;
    // Seldom: a step with one is skipped.
    if count > 0u {
        let before = atomicAdd(&control[FOUND], count);
        if before + count < before {
            atomicStore(&control[FOUND_MORE], 1u);
        }
    }
}
