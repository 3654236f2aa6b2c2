//! Rows, scalars, slots and constants.

use naga::{ScalarKind, TypeInner};

use super::*;
use crate::config::gradient::{NORM_EPS, UNIT_EPS};
use crate::gpu::abi;
use crate::gpu::step::lines;
use crate::gpu::step::phases::Phase;
use crate::plan::layout::BLOCK;
use crate::rule::hyper::MAX_SCALARS;
use crate::shader::{ByLine, Parts, WORKGROUP};
use crate::storage::Noise;

/// A member of a struct: name, byte offset, size, what its numbers are.
#[derive(Debug, PartialEq)]
struct Member {
    name: String,
    offset: usize,
    size: usize,
    kind: ScalarKind,
}

/// What a Rust field's numbers are.
trait Numbers {
    const KIND: ScalarKind;
}
impl Numbers for u32 {
    const KIND: ScalarKind = ScalarKind::Uint;
}
impl Numbers for i32 {
    const KIND: ScalarKind = ScalarKind::Sint;
}
impl Numbers for f32 {
    const KIND: ScalarKind = ScalarKind::Float;
}
impl Numbers for abi::Stretch {
    const KIND: ScalarKind = ScalarKind::Uint;
}
impl Numbers for abi::RowSlot {
    const KIND: ScalarKind = ScalarKind::Uint;
}
impl<T: Numbers, const N: usize> Numbers for [T; N] {
    const KIND: ScalarKind = T::KIND;
}

fn kind_of<T: Numbers>(_: &T) -> ScalarKind {
    T::KIND
}

/// The members of a row. Does not compile when one is missing.
macro_rules! members {
    ($row:ident { $($field:ident),* $(,)? }) => {{
        let row: abi::$row = bytemuck::Zeroable::zeroed();
        let abi::$row { $($field),* } = &row;
        let members = vec![$(Member {
            name: stringify!($field).to_owned(),
            offset: std::mem::offset_of!(abi::$row, $field),
            size: size_of_val($field),
            kind: kind_of($field),
        }),*];
        (members, size_of::<abi::$row>())
    }};
}

/// The members of a struct of a module, and its size. A last array without a length is left out: it
/// starts where the rest ends.
fn reflect(module: &naga::Module, name: &str) -> (Vec<Member>, usize) {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let (_, ty) = module
        .types
        .iter()
        .find(|(_, ty)| ty.name.as_deref() == Some(name))
        .unwrap_or_else(|| panic!("no struct {name}"));
    let TypeInner::Struct { members, span } = &ty.inner else { panic!("{name} is not a struct") };
    let mut size = *span as usize;
    let mut reflected = Vec::new();
    for member in members {
        if let TypeInner::Array { size: naga::ArraySize::Dynamic, .. } = module.types[member.ty].inner {
            size = member.offset as usize;
            continue;
        }
        reflected.push(Member {
            name: member.name.clone().unwrap(),
            offset: member.offset as usize,
            size: layouter[member.ty].size as usize,
            kind: scalar_kind(module, member.ty),
        });
    }
    (reflected, size)
}

fn scalar_kind(module: &naga::Module, ty: naga::Handle<naga::Type>) -> ScalarKind {
    match module.types[ty].inner {
        TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } => scalar.kind,
        TypeInner::Array { base, .. } => scalar_kind(module, base),
        TypeInner::Struct { ref members, .. } => scalar_kind(module, members[0].ty),
        ref other => panic!("{other:?} in a row"),
    }
}

/// The value of a `const`.
fn constant(module: &naga::Module, name: &str) -> f64 {
    let (_, constant) =
        module.constants.iter().find(|(_, c)| c.name.as_deref() == Some(name)).unwrap_or_else(|| panic!("no {name}"));
    match module.global_expressions[constant.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => value.into(),
        naga::Expression::Literal(naga::Literal::F32(value)) => value.into(),
        ref other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn rows_equal_the_structs_of_every_kernel() {
    let settings = members!(Settings {
        blocks,
        parts,
        tensors,
        tracks,
        tensors_at,
        absent_at,
        decisions_at,
        tracks_at,
        sums_at,
        line_sets_at,
        rates_at,
        factors_at,
        factor_rows,
        clip_value,
        norm_limit,
        weight_clip,
        weight_limit,
        accumulate,
        mean,
        growth_interval,
        growth_factor,
        backoff_factor,
        ema_interval,
        ema_decay,
        ema_weight,
        noise,
    });
    let block = members!(BlockRow { tensor, number, len, start, state, partial, unclipped, spare });
    let span = members!(SpanRow {
        first_block,
        blocks,
        gradient_shift,
        first_unit_job,
        unit_jobs,
        first_line_job,
        line_jobs,
        spare,
    });
    let assignment = members!(AssignmentRow { row, member, gradient_shift, spare });
    let tensor =
        members!(TensorRow { track, live, first_partial, partials, elements, averages, key, unclipped, noise_key });
    let control = members!(Control {
        taken,
        skipped,
        accumulated,
        micro,
        nonfinite,
        skip,
        norm_mantissa,
        norm_exponent,
        exponent,
        coefficient,
        lr,
        loss_scale,
        unscale,
        good_steps,
        phase,
        generation,
        found,
        found_more,
    });
    let kept = members!(Move { before, after, words, spare });
    let turn = members!(PhaseChange { before, after });
    let partial = members!(Partial { small, middle, large, largest, count, zeros, spare });
    let track = members!(Track { lr, lr_decoupled, coupled, in_ratio, sign, unscale, ema_decay, ema_weight, scalars });
    let decision = members!(Decision { action, track, exponent, coefficient, elements, share, key, steps });
    let stretch = members!(Stretch { first, count, base, elements });
    let row_slot = members!(RowSlot { quad_words, quads_before, scales_before, fill, scale, spare0, spare1, spare2 });
    let moved_rows = members!(Rows { old, fresh, width, slots, quad_words, scales, table });

    let line_set = members!(LineSet {
        tensor,
        kind,
        count,
        length,
        stride,
        inner,
        outer,
        threads,
        steps,
        partials_at,
        parts,
        out_at,
    });
    let line_job = members!(LineJob {
        line_set,
        first_line,
        from_element,
        part,
        first_element,
        end_element,
        start,
        state,
        block_state,
        spare0,
        spare1,
        spare2,
    });

    let lamb = rules::Lamb::default();
    let plan = full(&lamb);
    let access = Access { vector: true, ..Access::default() };
    let code = &plan.variants[0];
    let (gradient, weights) = (&plan.gradient, &plan.weights);
    let kernels = [
        shader::scan(code, gradient, access),
        shader::scan(code, gradient, Access { bundle: BUNDLE, ..access }),
        shader::sum_groups(Parts::Step),
        shader::sum_tensors(Parts::Step),
        shader::prepare(&plan),
        shader::measure(code, gradient, access),
        shader::update(code, gradient, weights, access, true),
        shader::weigh(code, weights, access),
        shader::limit(code, weights, access),
        shader::average(code, access),
        shader::swap(code, access, false),
        shader::sum_lines(code, gradient, ByLine::Units),
        shader::sum_lines(code, gradient, ByLine::Gradients),
        shader::sum_lines(code, gradient, ByLine::Rows),
        shader::fold_lines(ByLine::Rows),
        shader::rows(),
        shader::keep(),
        shader::change_phase(),
    ];
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for kernel in &kernels {
        let module = module(kernel);
        for (name, expected) in [
            ("Settings", &settings),
            ("Block", &block),
            ("Span", &span),
            ("Assignment", &assignment),
            ("Tensor", &tensor),
            ("Control", &control),
            ("Partial", &partial),
            ("Track", &track),
            ("Decision", &decision),
            ("LineSet", &line_set),
            ("LineJob", &line_job),
            ("Stretch", &stretch),
            ("RowSlot", &row_slot),
            ("Rows", &moved_rows),
            ("Move", &kept),
            ("PhaseChange", &turn),
        ] {
            if module.types.iter().any(|(_, ty)| ty.name.as_deref() == Some(name)) {
                assert_eq!(&reflect(&module, name), expected, "{name} of {}", kernel.entry);
                *seen.entry(name).or_default() += 1;
            }
        }
    }
    assert_eq!(seen.len(), 16, "{seen:?}");
}

#[test]
fn numbers_on_both_sides_are_equal() {
    let prepare = prepare();
    assert_eq!(constant(&prepare, "MAX_SCALARS"), MAX_SCALARS as f64);
    assert_eq!(constant(&prepare, "ROW_WORDS"), abi::ROW_WORDS as f64);
    assert_eq!(constant(&prepare, "NORM_EPS"), f64::from(NORM_EPS as f32));
    // `prepare.wgsl` reads a track's source and a group's rates by words, four and eight.
    assert_eq!(size_of::<abi::TrackSource>(), 16);
    assert_eq!(size_of::<abi::RatesRow>(), 32);
    // The headers of values by line are read by words, eight a tensor.
    assert_eq!(size_of::<abi::LineHeader>(), 32);
    let fold = module(&shader::fold_lines(ByLine::Rows));
    assert_eq!(constant(&fold, "NORM_EPS"), f64::from(NORM_EPS as f32));
    assert_eq!(constant(&fold, "UNIT_EPS"), f64::from(UNIT_EPS as f32));
    for (name, value) in [("UNITS", lines::UNITS), ("AVERAGE", lines::AVERAGE), ("MEAN", lines::MEAN)] {
        assert_eq!(constant(&fold, name), f64::from(value));
    }
    // The workgroup's sum in two levels.
    assert_eq!(f64::from(WORKGROUP) % constant(&prepare, "FAN"), 0.0);
    // Kernels that know nothing else of it find the phase in the control block, and phases by their numbers.
    let turn = module(&shader::change_phase());
    assert_eq!(constant(&turn, "PHASE"), (std::mem::offset_of!(abi::Control, phase) / 4) as f64);
    let find = module(&shader::scan(&variant(&rules::AdamW::default()), &plain(), Access::default()));
    for (name, place) in [
        ("MICRO", std::mem::offset_of!(abi::Control, micro)),
        ("UNSCALE_WORD", std::mem::offset_of!(abi::Control, unscale)),
        ("FOUND", std::mem::offset_of!(abi::Control, found)),
        ("FOUND_MORE", std::mem::offset_of!(abi::Control, found_more)),
    ] {
        assert_eq!(constant(&find, name), (place / 4) as f64, "{name}");
    }
    assert_eq!(constant(&prepare, "TRAINING"), f64::from(Phase::Training as u32));
    assert!([Phase::Training, Phase::Evaluating, Phase::Averaged].into_iter().all(|p| Phase::of(p as u32) == p));
    let noisy = Variant { noisy: true, ..variant(&rules::AdamW::default()) };
    let noisy = module(&shader::update(&noisy, &plain(), &WeightsConfig::default(), Access::default(), false));
    assert_eq!(constant(&noisy, "NORMAL_STREAM"), f64::from(Noise::NORMAL));
    // A block's length does not depend on the workgroup's.
    assert_eq!(BLOCK % u64::from(WORKGROUP * 4), 0);
}

#[test]
fn scalars_and_slots_are_the_members_of_a_rules_structs() {
    for rule in rules::all() {
        let module = update_of(rule.name());
        let names = |of: &str| -> Vec<String> { reflect(&module, of).0.into_iter().map(|m| m.name).collect() };
        let (hyper, _) = reflect(&module, "Hyper");
        assert!(hyper.iter().all(|m| m.kind == ScalarKind::Float && m.size == 4), "{}: {hyper:?}", rule.name());
        if !rule.scalar_names().is_empty() {
            assert_eq!(names("Hyper"), rule.scalar_names(), "{}", rule.name());
        }
        let (state, _) = reflect(&module, "State");
        assert!(state.iter().all(|m| m.kind == ScalarKind::Float && m.size == 16), "{}: {state:?}", rule.name());
        let slots: Vec<_> = rule.slots().iter().map(|s| s.name).collect();
        if !slots.is_empty() {
            assert_eq!(names("State"), slots, "{}", rule.name());
        }
    }
}
