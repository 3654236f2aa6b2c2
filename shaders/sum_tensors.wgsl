// Sums over each tensor of its parts, of blocks or of groups of blocks, in fixed order: one workgroup a tensor. Where there are
// two sets of parts (of parameters and of updates), the second follows the first.

@group(0) @binding(1) var<storage, read> tensors: array<Tensor>;

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
    let tensor = tensors[index];
    let first = tensor.first_partial + group.z * settings.parts;
    sum_parts(thread, first, tensor.partials, group.z * settings.tensors + index);
}
