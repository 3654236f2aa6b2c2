//! What the host and the composed kernels must agree on, by reflection: rows, scalars, slots,
//! constants and bindings. Needs no device. `tests/shaders.rs` checks that every kernel is valid.

use std::num::NonZeroU32;

use crate::config::{EmaConfig, GradientConfig, OptimizerConfig, WeightsConfig};
use crate::plan::{Plan, Variant};
use crate::rule::Rule;
use crate::rules;
use crate::shader;
use crate::shader::{Access, Kernel};

mod bound;
mod struct_rows;
mod workgroup;

const BUNDLE: Option<NonZeroU32> = NonZeroU32::new(16);

fn plain() -> GradientConfig {
    GradientConfig::default()
}

/// A plan in which everything that needs a pass is asked for.
fn full(rule: &dyn Rule) -> Plan {
    let gradient = GradientConfig { accumulate: 2, clip_tensor_norm: Some(1.0), ..plain() };
    let weights = WeightsConfig { max_norm: Some(1.0), ..WeightsConfig::default() };
    let config =
        OptimizerConfig::from_boxed(rule.boxed()).gradient(gradient).weights(weights).ema(EmaConfig::default());
    Plan::new(&config, &[]).unwrap()
}

/// The same with a clip by unit.
fn full_by_line(rule: &dyn Rule) -> Plan {
    let mut plan = full(rule);
    plan.gradient = GradientConfig { accumulate: 2, clip_adaptive: Some(0.1), ..plain() };
    plan
}

fn module(kernel: &Kernel) -> naga::Module {
    naga::front::wgsl::parse_str(&kernel.source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&kernel.source)))
}

fn variant(rule: &dyn Rule) -> Variant {
    Plan::new(&OptimizerConfig::from_boxed(rule.boxed()), &[]).unwrap().variants.remove(0)
}

fn accesses() -> impl Iterator<Item = Access> {
    (0..32).filter(|i| i & 24 != 24).map(|i| Access {
        vector: i & 1 != 0,
        aliased: i & 2 != 0,
        clear: i & 4 != 0,
        listed: i & 16 != 0,
        bundle: BUNDLE.filter(|_| i & 8 != 0),
    })
}

fn prepare() -> naga::Module {
    module(&shader::prepare(&full(&rules::AdamW::default())))
}

fn update(rule: &dyn Rule, access: Access) -> naga::Module {
    module(&shader::update(&variant(rule), &plain(), &WeightsConfig::default(), access, false))
}

fn update_of(name: &str) -> naga::Module {
    update(rules::by_name(name).unwrap().as_ref(), Access { vector: true, ..Access::default() })
}
