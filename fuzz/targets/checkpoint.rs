//! Any bytes as a checkpoint: refused, or a state that fits, and that is the same once written and read again.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::step::Plan;
use wgpu_optim::{Checkpoint, Group, OptimizerConfig, TensorSpec};

fn plan() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let config = OptimizerConfig::new(AdamW::default())
            .group(Group::matching("b").rule(Sgd { momentum: 0.5, ..Sgd::default() }));
        let specs = [TensorSpec::new("a", [2, 3]), TensorSpec::new("b", []), TensorSpec::new("c", [0, 7])];
        Plan::new(&config, &specs).unwrap()
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_safetensors(bytes, plan()) else { return };
    checkpoint.check(plan()).unwrap();
    let again = Checkpoint::from_safetensors(&checkpoint.to_safetensors().unwrap(), plan()).unwrap();
    // By text: NaN is not equal to itself.
    assert_eq!(format!("{again:?}"), format!("{checkpoint:?}"));
});
