//! Any bytes as a checkpoint, also in another storage: refused, or a state that fits, and that is the same once
//! written and read again.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::plan::Plan;
use wgpu_optim::{Checkpoint, Format, Group, OptimizerConfig, StateFormat, StorageConfig, TensorSpec};

/// One in f32 throughout, one with masters and with a tensor that is long enough for 8 bits.
fn plans() -> &'static [Plan; 2] {
    static PLANS: OnceLock<[Plan; 2]> = OnceLock::new();
    PLANS.get_or_init(|| {
        let config = OptimizerConfig::new(AdamW::default())
            .group(Group::matching("b").rule(Sgd { momentum: 0.5, ..Sgd::default() }));
        let specs = |a: [u64; 2]| [TensorSpec::new("a", a), TensorSpec::new("b", []), TensorSpec::new("c", [0, 7])];
        let storage = StorageConfig { params: Format::Bf16, state: StateFormat::Q8, ..StorageConfig::default() };
        let narrow = config.clone().storage(storage);
        let narrow = narrow.group(Group::matching("a").set("master", "none"));
        [Plan::new(&config, &specs([2, 3])).unwrap(), Plan::new(&narrow, &specs([2, 2050])).unwrap()]
    })
}

fuzz_target!(|bytes: &[u8]| {
    for plan in plans() {
        // By text: NaN is not equal to itself.
        let text = |checkpoint: &Checkpoint| format!("{checkpoint:?}");
        let read = Checkpoint::from_safetensors(bytes, plan);
        if let Ok(checkpoint) = &read {
            checkpoint.check(plan).unwrap();
            let again = Checkpoint::from_safetensors(&checkpoint.to_safetensors().unwrap(), plan).unwrap();
            // A scale that is no number has spoiled what it scales.
            let scales = |c: &Checkpoint| {
                c.state.tensors.iter().flat_map(|t| t.storage.clone()).flat_map(|s| s.scales).collect::<Vec<_>>()
            };
            if scales(checkpoint).iter().all(|scale| scale.is_finite()) {
                assert_eq!(text(&again), text(checkpoint));
            }
        }
        match Checkpoint::convert_from_safetensors(bytes, plan) {
            Ok(converted) => converted.check(plan).unwrap(),
            Err(error) => assert!(read.is_err(), "it was read as it is: {error}"),
        }
    }
});
