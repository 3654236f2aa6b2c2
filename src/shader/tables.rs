//! What kernels bind besides the memory of a span. A kernel's list is where it is composed; its declarations, the layout of
//! its bindings and what is bound all follow from that.

use std::fmt::Write as _;

/// Parts of sums: of a step, or of a look at its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parts {
    /// Of whatever a step depends on: gradients, updates before they are made, weights.
    Step,
    /// Of gradients that are looked at.
    Gradients,
    /// Of what updates do to weights that are looked at.
    Updates,
}

/// A buffer that is no span's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// What holds for every step.
    Settings,
    /// What is looked up by block, tensor, track or line.
    Tables,
    /// What the device keeps from step to step.
    Control,
    /// The same as words that are changed by atomics.
    ControlWords,
    /// Rates and scalars of coming steps.
    StepTable,
    /// For the caller's loss kernel to bind.
    LossScale,
    /// Parts that blocks leave.
    BlockParts(Parts),
    /// Parts that sums by tensor are made of: blocks', or those of groups of blocks.
    Parts(Parts),
    /// The first part of each group of blocks, and how many it has.
    Groups,
    /// The groups' parts.
    GroupParts,
    /// Workgroups' shares of lines.
    LineJobs(super::ByLine),
    /// Sums of squares at the three scales, by share of a line.
    LineParts,
    /// Sets of lines and the first line of each that a workgroup serves.
    LineFolds(super::ByLine),
    /// Values by line, the tensors' headers first.
    LineValues,
    /// The phases in which weights are exchanged with their average, or back.
    PhaseChange {
        /// Whether it is back.
        back: bool,
    },
}

/// How a kernel binds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// As a uniform.
    Uniform,
    /// To read.
    Read,
    /// To read and to write.
    ReadWrite,
}

/// A table and how it is bound.
pub type Bound = (Table, Mode);

/// The settings, as all kernels bind them.
pub const SETTINGS: Bound = (Table::Settings, Mode::Uniform);

/// The tables, as nearly all kernels bind them.
pub const TABLES: Bound = (Table::Tables, Mode::Read);

impl Table {
    /// The variable and its type.
    fn variable(self) -> (&'static str, &'static str) {
        match self {
            Self::Settings => ("settings", "Settings"),
            Self::Tables => ("tables", "array<u32>"),
            Self::Control => ("control", "Control"),
            Self::ControlWords => ("control", "array<atomic<u32>>"),
            Self::StepTable => ("table", "array<u32>"),
            Self::LossScale => ("loss_scale", "array<f32>"),
            Self::BlockParts(_) | Self::Parts(_) => ("partials", "array<Partial>"),
            Self::Groups => ("groups_of_blocks", "array<vec2<u32>>"),
            Self::GroupParts => ("sums", "array<Partial>"),
            Self::LineJobs(_) => ("jobs", "array<LineJob>"),
            Self::LineParts => ("line_partials", "array<vec4<f32>>"),
            Self::LineFolds(_) => ("folds", "array<vec2<u32>>"),
            Self::LineValues => ("lines", "array<u32>"),
            Self::PhaseChange { .. } => ("turn", "PhaseChange"),
        }
    }
}

/// Declares them in group 0, numbered in their order.
pub fn declare_tables(source: &mut String, tables: &[Bound]) {
    for (binding, (table, mode)) in tables.iter().enumerate() {
        let (name, ty) = table.variable();
        let space = match mode {
            Mode::Uniform => "uniform",
            Mode::Read => "storage, read",
            Mode::ReadWrite => "storage, read_write",
        };
        let _ = writeln!(source, "@group(0) @binding({binding}) var<{space}> {name}: {ty};");
    }
}
