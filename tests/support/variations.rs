//! What tests run over: rules with their options away from their defaults, and the code that they lead to.

use wgpu_optim::plan::{Plan, Variant};
use wgpu_optim::verify::{self, Variation};
use wgpu_optim::{OptimizerConfig, Rule};

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
