//! Kernels that read and change weights besides the update.

use super::storage::{add_engine_word, add_once, add_state, add_weights};
use super::tables::{Bound, Mode, Parts, SETTINGS, TABLES, Table};
use super::{
    Access, Kernel, add_blocks, add_sums, add_tensor_sums, add_tracks, flag, kernel, proposing, rule, with_lines,
};
use crate::config::{GradientConfig, WeightsConfig};
use crate::plan::{EMA, Variant};

/// The kernel that reads the new parameters for a limit by tensor.
pub fn weigh(variant: &Variant, weights: &WeightsConfig, access: Access) -> Kernel {
    let tables = [TABLES, SETTINGS, (Table::BlockParts(Parts::Step), Mode::ReadWrite)];
    weights_kernel(file!("weigh.wgsl"), "weigh", variant, weights, access, &tables)
}

/// The kernel that scales tensors which exceed the limit.
pub fn limit(variant: &Variant, weights: &WeightsConfig, access: Access) -> Kernel {
    weights_kernel(file!("limit.wgsl"), "limit", variant, weights, access, &[TABLES, SETTINGS])
}

fn weights_kernel(
    text: &str,
    entry: &'static str,
    variant: &Variant,
    weights: &WeightsConfig,
    access: Access,
    tables: &[Bound],
) -> Kernel {
    let mut source = text.to_owned();
    add_sums(&mut source);
    add_tensor_sums(&mut source);
    add_blocks(&mut source, access);
    add_tracks(&mut source, false);
    add_weights(&mut source, variant, access);
    if variant.storage.master {
        add_state(&mut source, variant, access, "read_write");
    }
    kernel(source, entry, vec![("NORM", flag(weights.max_norm.is_some()))], tables)
}

/// The kernel that averages the weights of a variant.
pub fn average(variant: &Variant, access: Access) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("average.wgsl"));
    add_once(&mut source, file!("maths.wgsl"));
    add_tracks(&mut source, false);
    ema_kernel(source, "average_weights", variant, access, &[TABLES, SETTINGS])
}

/// The kernel that exchanges weights and their average, or exchanges them back.
pub fn swap(variant: &Variant, access: Access, back: bool) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("swap.wgsl"));
    source.push_str(file!("control.wgsl"));
    source.push_str(file!("phase.wgsl"));
    let tables = [TABLES, SETTINGS, (Table::Control, Mode::Read), (Table::PhaseChange { back }, Mode::Uniform)];
    ema_kernel(source, "swap_weights", variant, access, &tables)
}

/// The kernel that replaces weights by those to evaluate with, for a variant that averages its iterates.
pub fn evaluate(variant: &Variant, gradient: &GradientConfig, access: Access) -> Kernel {
    let mut source = rule(variant, gradient, access);
    source.push_str(file!("evaluate.wgsl"));
    source.push_str(file!("control.wgsl"));
    source.push_str(file!("workgroup.wgsl"));
    let tables = with_lines(variant, gradient, &[(Table::Control, Mode::Read)]);
    kernel(source, "evaluate", proposing(variant, gradient), tables)
}

fn ema_kernel(mut source: String, entry: &'static str, variant: &Variant, access: Access, tables: &[Bound]) -> Kernel {
    source.push_str(file!("workgroup.wgsl"));
    add_blocks(&mut source, access);
    add_weights(&mut source, variant, access);
    add_state(&mut source, variant, access, "read_write");
    add_engine_word(&mut source, variant, "ema_word", EMA);
    kernel(source, entry, Vec::new(), tables)
}
