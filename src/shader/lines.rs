//! Kernels of what goes by lines of tensors.

use super::rows::add_row;
use super::storage::add_state;
use super::tables::{Bound, Mode, SETTINGS, TABLES, Table};
use super::{
    Access, Kernel, add_block_size, add_condition, add_span, add_tracks, add_unit_factors, conditioning, flag, kernel,
    storage,
};
use crate::config::GradientConfig;
use crate::plan::Variant;

/// What lines of tensors are added up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ByLine {
    /// Gradients and parameters by unit.
    Units,
    /// Gradients by row and column.
    Gradients,
    /// The rows' averages by matrix.
    Rows,
}

/// The kernel that adds lines up.
pub fn sum_lines(variant: &Variant, gradient: &GradientConfig, by: ByLine) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("lines/sum.wgsl"));
    add_lines(&mut source);
    if by == ByLine::Rows {
        source.push_str(file!("lines/by_rows.wgsl"));
        let tables = sum_tables(gradient, by);
        return kernel(source, "sum_lines", Vec::new(), tables);
    }
    add_span(&mut source, Access::default());
    add_block_size(&mut source);
    add_condition(&mut source, gradient);
    source.push_str(file!("scale.wgsl"));
    source.push_str(file!("lines/gradient.wgsl"));
    storage::add_gradient_elements(&mut source, variant);
    if by == ByLine::Units {
        source.push_str(file!("lines/by_units.wgsl"));
        storage::add_weight_elements(&mut source, variant);
    } else {
        source.push_str(file!("lines/by_gradients.wgsl"));
        storage::add_once(&mut source, file!("maths.wgsl"));
        add_unit_factors(&mut source, gradient);
    }
    if gradient.accumulates() || (by == ByLine::Units && variant.storage.master) {
        add_state(&mut source, variant, Access::default(), "read");
    }
    let mut constants = conditioning(gradient);
    constants.push(("SCALE", flag(gradient.needs_factors())));
    let tables = sum_tables(gradient, by);
    kernel(source, "sum_lines", constants, tables)
}

fn sum_tables(gradient: &GradientConfig, by: ByLine) -> Vec<Bound> {
    let reads = by == ByLine::Rows || (by == ByLine::Gradients && gradient.clip_adaptive.is_some());
    let values = reads.then_some((Table::LineValues, Mode::Read));
    let own = [TABLES, SETTINGS, (Table::LineJobs(by), Mode::Read), (Table::LineParts, Mode::ReadWrite)];
    own.into_iter().chain(values).collect()
}

/// The kernel that makes of the lines' sums what they are for.
pub fn fold_lines(by: ByLine) -> Kernel {
    let mut source = String::new();
    source.push_str(file!("lines/fold.wgsl"));
    add_lines(&mut source);
    storage::add_once(&mut source, file!("maths.wgsl"));
    let tables = [
        TABLES,
        SETTINGS,
        (Table::LineFolds(by), Mode::Read),
        (Table::LineParts, Mode::Read),
        (Table::LineValues, Mode::ReadWrite),
    ];
    kernel(source, "fold_lines", Vec::new(), tables)
}

fn add_lines(source: &mut String) {
    add_row(source, file!("lines/set.wgsl"), "LineSet", false);
    source.push_str(file!("workgroup.wgsl"));
    source.push_str(file!("partial.wgsl"));
    source.push_str(file!("settings.wgsl"));
    add_tracks(source, false);
}
