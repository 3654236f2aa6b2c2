//! Bindings.

use naga::{AddressSpace, StorageAccess, TypeInner};

use super::*;
use crate::config::NoiseConfig;
use crate::gpu::change::{row_moves, row_starts};
use crate::gpu::device::pipelines::{Bindings, Kind, layout_of};
use crate::gpu::step::{keep, kernels};
use crate::plan::Pass;
use crate::plan::layout::BUNDLE_ARRAYS;
use crate::storage::{StateFormat, StorageConfig};
use crate::tensor::TensorSpec;

/// Bindings of one group of a module, in order.
fn bound(module: &naga::Module, group: u32) -> Bindings {
    let mut found = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding.filter(|b| b.group == group) else { continue };
        let kind = match variable.space {
            AddressSpace::Uniform => Kind::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Kind::ReadWrite,
            AddressSpace::Storage { .. } => Kind::Read,
            other => panic!("{other:?} is bound"),
        };
        // Their size is the layout's to say.
        let is_array = matches!(module.types[variable.ty].inner, TypeInner::BindingArray { .. });
        found.push((binding.binding, kind.in_array(BUNDLE.filter(|_| is_array))));
    }
    found.sort_by_key(|(index, _)| *index);
    found
}

fn groups(module: &naga::Module) -> usize {
    let bindings = module.global_variables.iter().filter_map(|(_, v)| v.binding);
    bindings.map(|b| b.group as usize + 1).max().unwrap_or(0)
}

/// Plans in which every pass and every table is asked for somewhere.
fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for rule in rules::all() {
        plans.push(Plan::new(&OptimizerConfig::from_boxed(rule.boxed()), &[]).unwrap());
        plans.push(full(rule.as_ref()));
        plans.push(full_by_line(rule.as_ref()));
    }
    let adamw = OptimizerConfig::new(rules::AdamW::default());
    plans.push(Plan::new(&adamw.clone().clip_global_norm(1.0), &[]).unwrap());
    plans.push(Plan::new(&adamw.clone().noise(NoiseConfig::default()), &[]).unwrap());
    let q8 = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
    for clip_adaptive in [None, Some(0.1)] {
        let gradient = GradientConfig { clip_adaptive, ..plain() };
        plans.push(Plan::new(&adamw.clone().storage(q8.clone()).gradient(gradient.clone()), &[]).unwrap());
        // With matrices, whose mean square is kept by rows and columns.
        let adafactor = OptimizerConfig::new(rules::Adafactor::default()).gradient(gradient);
        plans.push(Plan::new(&adafactor, &[TensorSpec::new("m", [8, 8])]).unwrap());
    }
    plans
}

/// Calls `check` with every kernel of a pass, what it binds, and the layouts of its groups.
fn each_kernel(mut check: impl FnMut(Pass, Access, &Kernel, &[Bindings])) {
    for plan in plans() {
        for code in &plan.variants {
            for pass in kernels::passes(&plan, true) {
                if !shader::goes_by_span(pass) {
                    let kernel = shader::of_pass(pass, &plan, code, Access::default());
                    check(pass, Access::default(), &kernel, &[layout_of(&kernel.tables)]);
                }
                for access in accesses().filter(|_| kernels::has_kernel(pass, code)) {
                    // What goes by lines has no list and no bundle.
                    if access.has_table() && (plan.by_line() || code.factored) {
                        continue;
                    }
                    let kernel = shader::of_pass(pass, &plan, code, access);
                    let span = kernels::span_layout(pass, &plan, code, access);
                    check(pass, access, &kernel, &[layout_of(&kernel.tables), span]);
                }
            }
        }
    }
}

#[test]
fn kernels_bind_what_the_layouts_declare() {
    let mut passes = std::collections::BTreeSet::new();
    each_kernel(|pass, access, kernel, layouts| {
        let module = module(kernel);
        assert!(groups(&module) <= layouts.len(), "{pass:?} {access:?}");
        assert_eq!(bound(&module, 0), layouts[0], "{pass:?} {access:?}");
        // Kernels of a span share one group.
        let span = bound(&module, 1);
        assert!(span.iter().all(|binding| layouts[1..].concat().contains(binding)), "{pass:?} {access:?}: {span:?}");
        if matches!(pass, Pass::Scan | Pass::Watch | Pass::Update) {
            assert_eq!(span.len(), layouts[1].len(), "{pass:?} {access:?}");
        }
        passes.insert(format!("{pass:?}"));
    });
    // Every pass was met: five sums by two kernels, an exchange and back.
    assert_eq!(passes.len(), 16 + 2 * 5 + 1, "{passes:?}");
    assert_eq!(bound(&module(&shader::rows()), 0), row_moves::rows_bindings());
    assert_eq!(bound(&module(&shader::start_rows()), 0), row_starts::start_bindings());
    assert_eq!(bound(&module(&shader::keep()), 0), keep::keep_bindings());
    assert_eq!(bound(&module(&shader::change_phase()), 0), keep::change_phase_bindings());
}

#[test]
fn every_kernel_leaves_two_of_the_storage_buffers_that_webgpu_promises() {
    let promised = wgpu::Limits::default().max_storage_buffers_per_shader_stage as usize;
    assert_eq!(promised, 8);
    let mut most = 0;
    each_kernel(|pass, access, _, layouts| {
        // Arrays have a limit of their own.
        let single = |kind: &Kind| matches!(kind, Kind::Read | Kind::ReadWrite);
        let storage = layouts.iter().flatten().filter(|(_, kind)| single(kind)).count();
        assert!(storage + 2 <= promised, "{pass:?} {access:?}: {layouts:?}");
        let many = |kind: &Kind| matches!(kind, Kind::ReadMany(_) | Kind::ReadWriteMany(_));
        let arrays = layouts.iter().flatten().filter(|(_, kind)| many(kind)).count();
        assert!(arrays <= BUNDLE_ARRAYS as usize, "{pass:?} {access:?}: {layouts:?}");
        most = most.max(storage);
    });
    assert_eq!(most, 6);
}
