// Sums over each tensor of its parts, of blocks or of groups of blocks, in fixed order: one workgroup a tensor. Where there are
// two sets of parts (of parameters and of updates), the second follows the first.

@group(0) @binding(0) var<uniform> settings: Settings;
@group(0) @binding(1) var<storage, read> tensors: array<Tensor>;
@group(0) @binding(2) var<storage, read> partials: array<Partial>;
@group(0) @binding(3) var<storage, read_write> sums: array<Partial>;

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
    var mine = Partial();
    for (var i = thread; i < tensor.partials; i += WORKGROUP) {
        mine = add(mine, partials[first + i]);
    }
    let total = sum_over_workgroup(thread, mine);
    if thread == 0u {
        sums[group.z * settings.tensors + index] = total;
    }
}
