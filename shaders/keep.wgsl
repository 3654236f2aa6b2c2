// Copies a stretch of words, if the device is in the phase for it. An encoder that was dropped leaves the phase as it
// was, so that nothing is brought back that was not kept, and nothing kept twice.

override BLOCK: u32 = 4096u;

struct Move {
    // The first word on either side.
    before: u32,
    after: u32,
    words: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> stretch: Move;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> copied: array<u32>;
@group(0) @binding(3) var<storage, read> control: array<u32>;
@group(0) @binding(4) var<uniform> turn: PhaseChange;

@compute @workgroup_size(WORKGROUP)
fn keep(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if control[PHASE] != turn.before {
        return;
    }
    let first = (group.y * groups.x + group.x) * BLOCK;
    let end = min(stretch.words, first + BLOCK);
    for (var i = first + thread; i < end; i += WORKGROUP) {
        copied[stretch.after + i] = source[stretch.before + i];
    }
}
