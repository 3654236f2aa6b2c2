// Sums over each tensor of its parts, of blocks or of groups of blocks, in fixed order: one workgroup a tensor. Where there are
// two sets of parts (of parameters and of updates), the second follows the first.

// Which sums these are, in sums of all tensors from the first.
override SUMS: u32 = 0u;

@compute @workgroup_size(WORKGROUP)
fn sum_tensors(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= settings.tensors {
        return;
    }
    let tensor = tensor_at(index);
    let first = tensor.first_partial + group.z * settings.parts;
    let total = sum_parts(thread, first, tensor.partials);
    if thread == 0u {
        set_partial(settings.sums_at + ((SUMS + group.z) * settings.tensors + index) * PARTIAL_WORDS, total);
    }
}
