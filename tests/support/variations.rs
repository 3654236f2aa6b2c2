//! What tests run over: rules with their options away from their defaults, the code that they lead to, storages.

use wgpu_optim::plan::{Plan, Variant};
use wgpu_optim::verify::{self, Variation};
use wgpu_optim::{Format, Master, OptimizerConfig, Rounding, Rule, StateFormat, StorageConfig};

/// Storages that meet every format, with a master, without, and rounded stochastically; the first is f32.
pub fn storages() -> Vec<StorageConfig> {
    use Format::{Bf16, F16, F32};
    let of = |params, gradients, state| StorageConfig { params, gradients, state, ..StorageConfig::default() };
    vec![
        StorageConfig::default(),
        of(Bf16, Bf16, StateFormat::Bf16),
        of(F16, F16, StateFormat::Q8),
        StorageConfig { rounding: Rounding::Stochastic, seed: 7, ..of(Bf16, Bf16, StateFormat::Bf16) },
        StorageConfig { rounding: Rounding::Stochastic, seed: 8, ..of(Bf16, F32, StateFormat::Q8) },
        StorageConfig { master: Some(Master::None), ..of(F16, Bf16, StateFormat::F32) },
        StorageConfig { master: Some(Master::None), ..of(Bf16, F16, StateFormat::F32) },
        of(F32, F16, StateFormat::Bf16),
        of(F32, F32, StateFormat::Q8),
    ]
}

/// The storages that `verify` knows, by its names.
pub fn named_storages() -> [(&'static str, StorageConfig); 5] {
    let of = |format, state, rounding| StorageConfig {
        params: format,
        gradients: format,
        state,
        rounding,
        ..StorageConfig::default()
    };
    [
        ("f32", StorageConfig::default()),
        ("bf16", of(Format::Bf16, StateFormat::Bf16, Rounding::Stochastic)),
        ("bf16-master", of(Format::Bf16, StateFormat::Bf16, Rounding::Nearest)),
        ("f16-master", of(Format::F16, StateFormat::Bf16, Rounding::Nearest)),
        ("q8", of(Format::Bf16, StateFormat::Q8, Rounding::Stochastic)),
    ]
}

/// The rule's options away from their defaults; labels begin with its name.
pub fn variations(rule: &dyn Rule) -> Vec<Variation> {
    let named = |v: Variation| Variation { label: format!("{} {}", rule.name(), v.label), ..v };
    verify::variations(rule).into_iter().map(named).collect()
}

/// The distinct pieces of code that the rule's options lead to.
pub fn code_variants(rule: &dyn Rule) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    for variation in variations(rule) {
        let variant = variant_of(variation.config.rule);
        if !variants.iter().any(|known| code_of(known) == code_of(&variant)) {
            variants.push(variant);
        }
    }
    variants
}

/// The variant that a plan makes of a rule.
pub fn variant_of(rule: Box<dyn Rule>) -> Variant {
    Plan::new(&OptimizerConfig::from_boxed(rule), &[]).unwrap().variants.remove(0)
}

fn code_of(variant: &Variant) -> (Vec<(&'static str, bool)>, Vec<usize>, String) {
    (variant.rule.constants(), variant.active.clone(), variant.rule.wgsl().to_owned())
}
