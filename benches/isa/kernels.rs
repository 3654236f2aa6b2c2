//! The kernels that are looked at.

use wgpu_optim::plan::Plan;
use wgpu_optim::rules::{Adafactor, AdamW, Lamb};
use wgpu_optim::shader::{self, Access, ByLine, Kernel, Parts};
use wgpu_optim::storage::{Format, Rounding, StateFormat};
use wgpu_optim::{OptimizerConfig, StorageConfig, TensorSpec};

fn plan(config: &OptimizerConfig) -> Plan {
    Plan::new(config, &[TensorSpec::new("m", [512, 512])]).unwrap_or_else(|e| panic!("{e}"))
}

fn update(plan: &Plan) -> Kernel {
    shader::update(&plan.variants[0], &plan.gradient, &plan.weights, vector(), false)
}

fn vector() -> Access {
    Access { vector: true, ..Access::default() }
}

/// By the name that docs/performance.md has for each.
pub fn all() -> Vec<(String, Kernel)> {
    let adamw = || OptimizerConfig::new(AdamW::default());
    let stored = |storage: StorageConfig| plan(&adamw().storage(storage));
    let half = |format| StorageConfig { params: format, gradients: format, ..StorageConfig::default() };
    let clipped = plan(&adamw().clip_global_norm(1.0));
    let default = plan(&adamw());
    let lamb = plan(&OptimizerConfig::new(Lamb::default()));
    let adafactor = plan(&OptimizerConfig::new(Adafactor::default()));
    let scan = |plan: &Plan| shader::scan(&plan.variants[0], &plan.gradient, vector());
    let named = [
        ("adamw f32", update(&default)),
        ("adamw f32, clipped", update(&clipped)),
        (
            "adamw bf16 stochastic",
            update(&stored(StorageConfig {
                state: StateFormat::Bf16,
                rounding: Rounding::Stochastic,
                ..half(Format::Bf16)
            })),
        ),
        ("adamw f16 master", update(&stored(half(Format::F16)))),
        ("adamw q8", update(&stored(StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() }))),
        ("scan, non-finite", scan(&default)),
        ("scan, norm", scan(&clipped)),
        ("prepare", shader::prepare(&clipped)),
        ("sum of groups", shader::sum_groups(Parts::Step)),
        ("lamb, measure", shader::measure(&lamb.variants[0], &lamb.gradient, vector())),
        ("lamb, update", update(&lamb)),
        ("adafactor, sums", shader::sum_lines(&adafactor.variants[0], &adafactor.gradient, ByLine::Gradients)),
        ("adafactor, update", update(&adafactor)),
    ];
    named.map(|(name, kernel)| (name.to_owned(), kernel)).into()
}
