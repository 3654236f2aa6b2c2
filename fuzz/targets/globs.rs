//! Any globs over any names: refused, or each tensor in the first group that matches it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wgpu_optim::rules::Sgd;
use wgpu_optim::plan::Plan;
use wgpu_optim::{Group, OptimizerConfig, TensorSpec};

fuzz_target!(|input: (Vec<String>, Vec<String>)| {
    let (patterns, names) = input;
    let mut config = OptimizerConfig::new(Sgd::default());
    for pattern in patterns.iter().take(8) {
        config = config.group(Group::matching(pattern.clone()));
    }
    let specs: Vec<_> = names.iter().take(16).map(|name| TensorSpec::new(name.clone(), [1])).collect();
    let Ok(plan) = Plan::new(&config, &specs) else { return };
    for tensor in &plan.tensors {
        // A group whose text is the name itself has it at the latest, whatever stands in it.
        let exact = patterns.iter().take(8).position(|p| *p == tensor.spec.name);
        if let Some(exact) = exact {
            assert!((1..=exact + 1).contains(&tensor.group), "{tensor:?} with {patterns:?}");
        }
    }
});
