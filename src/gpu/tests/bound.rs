//! Bindings.

use naga::{AddressSpace, StorageAccess, TypeInner};

use super::*;
use crate::gpu::change::{row_moves, row_starts};
use crate::gpu::device::pipelines::{Bindings, Kind};
use crate::gpu::step::{bindings, by_line, keep, sums, tables};
use crate::plan::layout::BUNDLE_ARRAYS;
use crate::shader::ByLine;
use crate::storage::StateFormat;

/// Bindings of one group of a module, in order.
fn bound(module: &naga::Module, group: u32) -> Bindings {
    let mut found = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding.filter(|b| b.group == group) else { continue };
        let kind = match variable.space {
            AddressSpace::Uniform => Kind::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Kind::Write,
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

#[test]
fn kernels_bind_what_the_layouts_declare() {
    for access in accesses() {
        let scan = module(&shader::scan(&variant(&rules::AdamW::default()), &plain(), access));
        assert_eq!(groups(&scan), 2);
        assert_eq!(bound(&scan, 0), bindings::scan_bindings(access.bundle, false));
        assert_eq!(bound(&scan, 1), tables::find_bindings());
        let clips = GradientConfig { clip_global_norm: Some(1.0), ..plain() };
        let scan = module(&shader::scan(&variant(&rules::AdamW::default()), &clips, access));
        assert_eq!(bound(&scan, 1), tables::scan_bindings());
    }
    let prepare = prepare();
    assert_eq!(groups(&prepare), 1);
    assert_eq!(bound(&prepare, 0), tables::prepare_bindings());
    assert_eq!(bound(&module(&shader::sum_groups()), 0), sums::group_bindings());
    assert_eq!(bound(&module(&shader::sum_tensors(0)), 0), sums::tensor_bindings());
    assert_eq!(bound(&module(&shader::rows()), 0), row_moves::rows_bindings());
    assert_eq!(bound(&module(&shader::start_rows()), 0), row_starts::start_bindings());
    assert_eq!(bound(&module(&shader::keep()), 0), keep::keep_bindings());
    assert_eq!(bound(&module(&shader::turn()), 0), keep::turn_bindings());
    // With and without state: every rule as it is, and sgd, which keeps none.
    assert!(rules::all().iter().any(|r| variant(r.as_ref()).kept_count() == 0));
    for rule in rules::all() {
        let code = variant(rule.as_ref());
        for access in accesses() {
            let update = update(rule.as_ref(), access);
            assert_eq!(groups(&update), 2);
            assert_eq!(
                bound(&update, 0),
                bindings::update_bindings(access, code.kept_count() > 0, false),
                "{access:?}"
            );
            assert_eq!(bound(&update, 1), tables::update_bindings(false));
        }
        // With everything on, the kernels of a span share the update's group.
        for (plan, by_line) in [(full(rule.as_ref()), false), (full_by_line(rule.as_ref()), true)] {
            for code in &plan.variants {
                accesses().for_each(|access| check_span_kernels(&plan, code, access, by_line || code.factored));
            }
        }
        let plan = full(rule.as_ref());
        for access in accesses() {
            let scan = module(&shader::scan(&plan.variants[0], &plan.gradient, access));
            assert_eq!(bound(&scan, 0), bindings::scan_bindings(access.bundle, true));
        }
    }
}

fn check_span_kernels(plan: &Plan, code: &Variant, access: Access, by_line: bool) {
    let (gradient, weights) = (&plan.gradient, &plan.weights);
    let has_codes = code.formats().any(|format| format == StateFormat::Q8);
    let span = bindings::update_bindings(access, true, has_codes);
    let mut kernels = vec![
        (shader::update(code, gradient, weights, access, true), tables::watched_bindings(by_line)),
        (shader::update(code, gradient, weights, access, false), tables::update_bindings(by_line)),
        (shader::weigh(code, weights, access), tables::weigh_bindings()),
        (shader::limit(code, weights, access), tables::limit_bindings()),
        (shader::average(code, access), tables::update_bindings(false)),
        (shader::swap(code, access), tables::swap_bindings()),
    ];
    if code.measures() {
        kernels.push((shader::measure(code, gradient, access), tables::measure_bindings(by_line)));
    }
    if code.averages() {
        kernels.push((shader::evaluate(code, gradient, access), tables::evaluate_bindings(by_line)));
    }
    for (kernel, tables) in kernels {
        let module = module(&kernel);
        assert_eq!(bound(&module, 1), tables, "{}", kernel.entry);
        assert!(bound(&module, 0).iter().all(|b| span.contains(b)), "{} {access:?}", kernel.entry);
    }
}

#[test]
fn kernels_by_line_bind_what_the_layouts_declare() {
    for clip_adaptive in [None, Some(0.1)] {
        for accumulate in [1, 2] {
            let gradient = GradientConfig { clip_adaptive, accumulate, ..plain() };
            let accumulates = gradient.accumulates();
            let clips = clip_adaptive.is_some();
            for (by, span, values) in [
                (ByLine::Units, bindings::unit_bindings(accumulates), false),
                (ByLine::Gradients, bindings::scan_bindings(None, accumulates), clips),
                (ByLine::Rows, Vec::new(), true),
            ] {
                let module = module(&shader::sum_lines(&variant(&rules::AdamW::default()), &gradient, by));
                assert_eq!(bound(&module, 0), span, "{by:?}");
                assert_eq!(bound(&module, 1), by_line::sum_bindings(values), "{by:?}");
            }
        }
    }
    assert_eq!(bound(&module(&shader::fold_lines()), 0), by_line::fold_bindings());
}

#[test]
fn every_kernel_leaves_two_of_the_storage_buffers_that_webgpu_promises() {
    let promised = wgpu::Limits::default().max_storage_buffers_per_shader_stage as usize;
    assert_eq!(promised, 8);
    let mut groups = vec![
        vec![sums::group_bindings()],
        vec![sums::tensor_bindings()],
        vec![tables::prepare_bindings()],
        vec![bindings::unit_bindings(true), by_line::sum_bindings(false)],
        vec![bindings::scan_bindings(None, true), by_line::sum_bindings(true)],
        vec![by_line::fold_bindings()],
    ];
    for bundle in [None, BUNDLE] {
        let update = bindings::update_bindings(Access { clear: true, bundle, ..Access::default() }, true, true);
        groups.push(vec![bindings::scan_bindings(bundle, true), tables::scan_bindings()]);
        groups.push(vec![bindings::scan_bindings(bundle, true), tables::find_bindings()]);
        for tables in [
            tables::update_bindings(true),
            tables::watched_bindings(true),
            tables::measure_bindings(true),
            tables::evaluate_bindings(true),
            tables::weigh_bindings(),
            tables::limit_bindings(),
            tables::swap_bindings(),
        ] {
            groups.push(vec![update.clone(), tables]);
        }
    }
    for bindings in groups {
        // Arrays have a limit of their own.
        let single = |kind: &Kind| matches!(kind, Kind::Read | Kind::Write);
        let storage = bindings.iter().flatten().filter(|(_, kind)| single(kind)).count();
        assert!(storage + 2 <= promised, "{bindings:?}");
        let many = |kind: &Kind| matches!(kind, Kind::ReadMany(_) | Kind::WriteMany(_));
        let arrays = bindings.iter().flatten().filter(|(_, kind)| many(kind)).count();
        assert!(arrays <= BUNDLE_ARRAYS as usize, "{bindings:?}");
    }
}
