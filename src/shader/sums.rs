//! Kernels that read gradients before a step, and that add parts up.

use super::rows::{add_loader, add_row};
use super::storage::{add_gradients, add_state};
use super::tables::{Mode, Parts, SETTINGS, TABLES, Table};
use super::{Access, Kernel, add_block_size, add_blocks, add_condition, add_sums, conditioning, flag, kernel};
use crate::config::{GradientConfig, OnNonfinite};
use crate::plan::Variant;

/// The kernel that reads gradients before a step, for their sums and for non-finite elements, or for these alone.
pub fn scan(variant: &Variant, gradient: &GradientConfig, access: Access) -> Kernel {
    if !gradient.only_finds() {
        return sums_of_gradients(variant, gradient, access, Parts::Step);
    }
    let mut source = String::new();
    source.push_str(file!("find_nonfinite.wgsl"));
    source.push_str(file!("workgroup.wgsl"));
    add_scanned(&mut source, variant, gradient, access);
    kernel(source, "find_nonfinite", conditioning(gradient), [TABLES, SETTINGS, (Table::ControlWords, Mode::ReadWrite)])
}

/// What kernels that read gradients, and nothing else of a step, have in common.
fn add_scanned(source: &mut String, variant: &Variant, gradient: &GradientConfig, access: Access) {
    add_block_size(source);
    add_blocks(source, access);
    add_condition(source, gradient);
    source.push_str(file!("absent.wgsl"));
    source.push_str(file!("micro.wgsl"));
    add_gradients(source, variant, access, "read");
    if gradient.accumulates() {
        add_state(source, variant, access, "read");
    }
}

fn sums_of_gradients(variant: &Variant, gradient: &GradientConfig, access: Access, parts: Parts) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("scan.wgsl"));
    add_sums(&mut source);
    source.push_str(file!("control.wgsl"));
    add_scanned(&mut source, variant, gradient, access);
    let mut constants = conditioning(gradient);
    constants.push(("NORM", flag(gradient.needs_norm() || gradient.clip_tensor_norm.is_some())));
    constants.push(("LARGEST", flag(gradient.clip_max_abs.is_some())));
    constants.push(("ZEROS", 0.0));
    constants.push(("COUNT_EACH", flag(gradient.counts_each())));
    constants.push(("TEST_NONFINITE", flag(gradient.on_nonfinite != OnNonfinite::Propagate)));
    constants.push(("SPARES", 1.0));
    let tables = [TABLES, SETTINGS, (Table::BlockParts(parts), Mode::ReadWrite), (Table::Control, Mode::Read)];
    kernel(source, "scan", constants, tables)
}

/// The scan that looks at gradients for their health.
pub fn watch(variant: &Variant, gradient: &GradientConfig, access: Access) -> Kernel {
    let mut kernel = sums_of_gradients(variant, gradient, access, Parts::Gradients);
    for (name, value) in &mut kernel.constants {
        if ["NORM", "LARGEST", "ZEROS", "TEST_NONFINITE"].contains(name) {
            *value = 1.0;
        }
        // Of completed steps only, and of all tensors.
        if ["COUNT_EACH", "SPARES"].contains(name) {
            *value = 0.0;
        }
    }
    kernel
}

/// The kernel that adds parts up by group of blocks.
pub fn sum_groups(parts: Parts) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("sum_groups.wgsl"));
    source.push_str(file!("sum_parts.wgsl"));
    add_sums(&mut source);
    source.push_str(file!("settings.wgsl"));
    let tables = [
        SETTINGS,
        (Table::Groups, Mode::Read),
        (Table::BlockParts(parts), Mode::Read),
        (Table::GroupParts, Mode::ReadWrite),
    ];
    kernel(source, "sum_groups", Vec::new(), tables)
}

/// Sums of all tensors that there are: what a step depends on, at most two, then of a look at gradients, at weights and at
/// their change.
pub const SUMS: u32 = 5;

/// Of these, those that a look at the steps' health leaves.
pub const LOOK: std::ops::Range<u32> = 2..SUMS;

/// The kernel that adds parts up by tensor.
pub fn sum_tensors(parts: Parts) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("sum_tensors.wgsl"));
    source.push_str(file!("sum_parts.wgsl"));
    add_sums(&mut source);
    add_loader(&mut source, file!("partial.wgsl"), "Partial", true);
    source.push_str(file!("settings.wgsl"));
    add_row(&mut source, file!("tensor.wgsl"), "Tensor", false);
    let first = match parts {
        Parts::Step => 0,
        Parts::Gradients => LOOK.start,
        Parts::Updates => LOOK.start + 1,
    };
    let tables = [SETTINGS, (Table::Tables, Mode::ReadWrite), (Table::Parts(parts), Mode::Read)];
    kernel(source, "sum_tensors", vec![("SUMS", f64::from(first))], tables)
}
