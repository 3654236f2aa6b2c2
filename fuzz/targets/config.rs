//! Any text as a run configuration: refused, or checked, written and read back as the same, and good for a plan, rates and
//! scalars that are numbers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wgpu_optim::rates::Rates;
use wgpu_optim::schedule::LARGEST_LR;
use wgpu_optim::plan::Plan;
use wgpu_optim::{OptimizerConfig, TensorSpec};

fuzz_target!(|text: &str| {
    let Ok(config) = toml::from_str::<OptimizerConfig>(text) else { return };
    let again = toml::from_str::<OptimizerConfig>(&config.to_toml()).expect("what is written can be read");
    assert_eq!(config.differences(&again), []);
    let specs = [TensorSpec::new("layer.weight", [3, 5]), TensorSpec::new("layer.bias", [5]), TensorSpec::new("w", [])];
    let Ok(plan) = Plan::new(&config, &specs) else { return };
    let mut rates = Rates::new(&plan);
    for taken in [0, 1, 2, 1000, u32::MAX.into()] {
        assert!(rates.factor(taken).is_finite(), "the factor of step {taken}");
        assert!(rates.lr(taken) <= LARGEST_LR, "the rate of step {taken}");
        for group in &plan.groups {
            let _ = group.rule.scalars(taken + 1, group.rule.lr());
        }
    }
    let _ = rates.set_lr(0.5);
    let _ = rates.report_loss(1.0);
    let _ = plan.bytes_moved();
    assert!(plan.passes().count() > 0);
});
