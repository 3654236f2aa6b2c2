//! Which kernel a pass has.

use super::{Access, ByLine, Kernel, Parts};
use super::{average, evaluate, fold_lines, limit, measure, prepare, scan, sum_groups, sum_lines, sum_tensors, swap};
use super::{update, watch, weigh};
use crate::plan::{Pass, Per, Plan, Sum, Variant};

/// The kernel of a pass over that variant's spans; those that go by no span are the same for all.
pub fn of_pass(pass: Pass, plan: &Plan, variant: &Variant, access: Access) -> Kernel {
    let (gradient, weights) = (&plan.gradient, &plan.weights);
    match pass {
        Pass::Watch => watch(variant, gradient, access),
        Pass::Scan => scan(variant, gradient, access),
        Pass::SumGroups(sum) => sum_groups(parts_of(sum)),
        Pass::SumTensors(sum) => sum_tensors(parts_of(sum)),
        Pass::Prepare => prepare(plan),
        Pass::SumUnits | Pass::SumLines | Pass::SumRows => sum_lines(variant, gradient, lines_of(pass)),
        Pass::ClipUnits | Pass::AverageLines | Pass::MeanRows => fold_lines(lines_of(pass)),
        Pass::Measure => measure(variant, gradient, access),
        Pass::Update => update(variant, gradient, weights, access, false),
        Pass::WatchedUpdate => update(variant, gradient, weights, access, true),
        Pass::Weigh => weigh(variant, weights, access),
        Pass::Limit => limit(variant, weights, access),
        Pass::Average => average(variant, access),
        Pass::Swap { back } => swap(variant, access, back),
        Pass::Evaluate => evaluate(variant, gradient, access),
    }
}

/// The parts that a sum is made of.
pub fn parts_of(sum: Sum) -> Parts {
    match sum {
        Sum::Gradients | Sum::Measures | Sum::Weights => Parts::Step,
        Sum::LookGradients => Parts::Gradients,
        Sum::LookUpdates => Parts::Updates,
    }
}

/// The lines that a pass goes by.
pub fn lines_of(pass: Pass) -> ByLine {
    match pass {
        Pass::SumUnits | Pass::ClipUnits => ByLine::Units,
        Pass::SumLines | Pass::AverageLines => ByLine::Gradients,
        _ => ByLine::Rows,
    }
}

/// Whether its kernel holds a rule's own text.
pub fn has_rule(pass: Pass) -> bool {
    matches!(pass, Pass::Measure | Pass::Update | Pass::WatchedUpdate | Pass::Evaluate)
}

/// Whether it is run over spans of tensors' memory.
pub fn goes_by_span(pass: Pass) -> bool {
    matches!(pass.spec().per, Per::Blocks | Per::Lines)
}
