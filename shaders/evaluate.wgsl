// Replaces the parameters of a rule that averages its iterates by those to evaluate with. A tensor that
// has taken no step is left alone.

@group(1) @binding(0) var<storage, read> blocks: array<Block>;
@group(1) @binding(1) var<uniform> settings: Settings;
@group(1) @binding(2) var<storage, read> verdicts: array<Verdict>;
@group(1) @binding(3) var<storage, read> lanes: array<Lane>;
@group(1) @binding(4) var<storage, read> control: Control;

@compute @workgroup_size(WORKGROUP)
fn evaluate(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = block_index(group, groups);
    if index >= span.blocks {
        return;
    }
    let block = blocks[span.first_block + index];
    if control.counts[block.tensor] == 0u {
        return;
    }
    let h = load_hyper(verdicts[block.tensor].lane);
    for (var i = thread * 4u; i < block.len; i += WORKGROUP * 4u) {
        let count = min(block.len - i, 4u);
        let p = unpack(load_params(block.start + i, count));
        let s = load_state(block.state + i, stride_of(block));
        store_params(block.start + i, count, pack(evaluated(p, s, h)));
    }
}
