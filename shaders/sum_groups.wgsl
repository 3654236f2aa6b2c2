// Sums over groups of up to 256 neighbouring blocks of one tensor of their parts, in fixed order: one workgroup a group.
// Where there are many blocks, what comes after has so few parts to go through that no workgroup walks along a whole
// model: at 2^30 elements that is a thousand trips to memory one after the other, and software Vulkan ends an
// invocation's loops after 65,535 rounds in all. Where there are two sets of parts, the second follows the first.

@compute @workgroup_size(WORKGROUP)
fn sum_groups(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= settings.parts {
        return;
    }
    let own = groups_of_blocks[index];
    let total = sum_parts(thread, own.x + group.z * settings.blocks, own.y);
    if thread == 0u {
        sums[group.z * settings.parts + index] = total;
    }
}
