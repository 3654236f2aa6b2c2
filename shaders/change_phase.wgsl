// Goes on to another phase, from the one that it follows only.

@group(0) @binding(0) var<storage, read_write> control: array<u32>;
@group(0) @binding(1) var<uniform> turn: PhaseChange;

@compute @workgroup_size(WORKGROUP)
fn change_phase(@builtin(local_invocation_index) thread: u32) {
    if thread == 0u && control[PHASE] == turn.before {
        control[PHASE] = turn.after;
    }
}
