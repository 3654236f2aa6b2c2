//! Composition of the kernels' WGSL from its files. Pure text, no device.
//!
//! The rule's file comes first, so that a compiler's line numbers are the file's own. Structure is
//! concatenation; options are pipeline-overridable constants.

use std::fmt::Write as _;

use crate::config::{GradientConfig, LossScale, OnNonfinite, WeightsConfig};
use crate::plan::layout::BLOCK;
use crate::plan::{Plan, Stepping, Variant};
use crate::storage::{Format, Q8_BLOCK};

// Ahead of the modules, which use it too.
macro_rules! file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path))
    };
}

mod access;
mod lines;
mod passes;
mod rows;
mod signature;
mod storage;
mod sums;
mod tables;
mod weights;

pub use access::Access;
use access::{add_span, declare};
pub use lines::{ByLine, fold_lines, sum_lines};
pub use passes::{goes_by_span, has_rule, lines_of, of_pass, parts_of};
use rows::{add_loader, add_row};
pub use signature::without_element;
pub use storage::wgsl_conversions;
use storage::{add_gradients, add_once, add_state, add_weights, state_glue};
pub use sums::{LOOK, SUMS, scan, sum_groups, sum_tensors, watch};
pub use tables::{Bound, Mode, Parts, Table};
use tables::{SETTINGS, TABLES, declare_tables};
pub use weights::{average, evaluate, limit, swap, weigh};

/// Threads of a workgroup.
pub const WORKGROUP: u32 = 256;

/// Threads of a workgroup that serves a block, for that type of adapter. A CPU plays a vector of them at a
/// time: with no more than that there is one start and one walk through memory for each block, and
/// barriers part nobody.
pub fn block_workgroup(adapter: wgpu::DeviceType) -> u32 {
    match adapter {
        wgpu::DeviceType::Cpu => 8,
        _ => WORKGROUP,
    }
}

/// As many threads, or the fewest more that take all elements of a scale of q8 at once: their largest is
/// found by the workgroup.
pub fn whole_scales(workgroup: u32) -> u32 {
    workgroup.next_multiple_of(Q8_BLOCK / 4)
}

/// A composed kernel: text, entry point and the values of its constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// The WGSL.
    pub source: String,
    /// The entry point.
    pub entry: &'static str,
    /// Values of its `override` declarations.
    pub constants: Vec<(&'static str, f64)>,
    /// What it binds in group 0, in order. What a span has in memory is group 1. Kernels that are no pass of a step declare
    /// their bindings in their text, and have none here.
    pub tables: Vec<Bound>,
}

impl Kernel {
    /// The same kernel with another number of threads: up to 16, or a multiple of 16.
    pub fn with_workgroup(mut self, threads: u32) -> Self {
        for (name, value) in &mut self.constants {
            if *name == "WORKGROUP" {
                *value = threads.into();
            }
        }
        self
    }
}

/// The kernel that moves rows of a tensor.
pub fn rows() -> Kernel {
    let mut source = String::new();
    source.push_str(file!("rows.wgsl"));
    source.push_str(file!("rows/fill.wgsl"));
    source.push_str(file!("workgroup.wgsl"));
    kernel(source, "fill_rows", vec![("BLOCK", BLOCK as f64)], [])
}

/// The kernel that starts rows of a tensor anew.
pub fn start_rows() -> Kernel {
    let mut source = String::new();
    source.push_str(file!("rows.wgsl"));
    source.push_str(file!("rows/start.wgsl"));
    source.push_str(file!("workgroup.wgsl"));
    kernel(source, "start_rows", vec![("BLOCK", BLOCK as f64)], [])
}

/// The kernel that copies words in one phase only.
pub fn keep() -> Kernel {
    let mut source = String::new();
    source.push_str(file!("keep.wgsl"));
    source.push_str(file!("phase.wgsl"));
    source.push_str(file!("workgroup.wgsl"));
    kernel(source, "keep", vec![("BLOCK", BLOCK as f64)], [])
}

/// The kernel that goes on to another phase.
pub fn change_phase() -> Kernel {
    let mut source = String::new();
    source.push_str(file!("change_phase.wgsl"));
    source.push_str(file!("phase.wgsl"));
    source.push_str(file!("workgroup.wgsl"));
    kernel(source, "change_phase", Vec::new(), [])
}

/// The kernel that decides a step.
pub fn prepare(plan: &Plan) -> Kernel {
    let gradient = &plan.gradient;
    let mut source = String::new();
    source.push_str(file!("prepare.wgsl"));
    add_sums(&mut source);
    add_tensor_sums(&mut source);
    source.push_str(file!("settings.wgsl"));
    add_row(&mut source, file!("tensor.wgsl"), "Tensor", false);
    add_tracks(&mut source, true);
    source.push_str(file!("absent.wgsl"));
    source.push_str(file!("micro.wgsl"));
    source.push_str(file!("control.wgsl"));
    let dynamic = matches!(gradient.loss_scale, Some(LossScale::Dynamic(_)));
    let constants = vec![
        ("DYNAMIC_SCALE", flag(dynamic)),
        ("AVERAGES", flag(plan.averages())),
        ("EMA", flag(plan.ema.is_some())),
        ("EMA_WARMUP", flag(plan.ema.as_ref().is_some_and(|ema| ema.warmup))),
        ("SCAN", flag(gradient.needs_scan() && !gradient.only_finds())),
        ("BY_TENSOR", flag(gradient.by_tensor())),
        ("FINDS", flag(gradient.only_finds())),
        ("COUNT_EACH", flag(gradient.counts_each())),
        ("SKIP", flag(gradient.on_nonfinite == OnNonfinite::Skip)),
        ("CLIP_NORM", flag(gradient.clip_global_norm.is_some())),
        ("NORMALIZE_NORM", flag(gradient.normalize_global_norm.is_some())),
        ("CLIP_TENSOR_NORM", flag(gradient.clip_tensor_norm.is_some())),
        ("CLIP_LARGEST", flag(gradient.clip_max_abs.is_some())),
    ];
    let tables = [
        SETTINGS,
        (Table::Parts(Parts::Step), Mode::Read),
        (Table::Tables, Mode::ReadWrite),
        (Table::StepTable, Mode::Read),
        (Table::Control, Mode::ReadWrite),
        (Table::LossScale, Mode::ReadWrite),
    ];
    kernel(source, "prepare", constants, tables)
}

/// The kernel that measures updates, for a variant that asks for it.
pub fn measure(variant: &Variant, gradient: &GradientConfig, access: Access) -> Kernel {
    let mut source = rule(variant, gradient, access);
    source.push_str(file!("measure.wgsl"));
    add_sums(&mut source);
    let mut constants = proposing(variant, gradient);
    constants.push(("CAUTIOUS", flag(variant.stepping == Stepping::Cautious)));
    let tables = with_lines(variant, gradient, &[(Table::BlockParts(Parts::Step), Mode::ReadWrite)]);
    kernel(source, "measure", constants, tables)
}

/// The kernel that updates parameters and state, and if `watched` sums up what it did to them.
pub fn update(
    variant: &Variant,
    gradient: &GradientConfig,
    weights: &WeightsConfig,
    access: Access,
    watched: bool,
) -> Kernel {
    let mut source = rule(variant, gradient, access);
    source.push_str(file!("update.wgsl"));
    if watched {
        source.push_str(file!("health.wgsl"));
        add_sums(&mut source);
    } else {
        source.push_str(file!("health.none.wgsl"));
        source.push_str(file!("workgroup.wgsl"));
    }
    let narrow = variant.storage.gradients != Format::F32;
    source.push_str(match (access.clear, narrow, access.vector) {
        (false, ..) => file!("access/clear.none.wgsl"),
        (true, false, true) => file!("access/clear.f32.vector.wgsl"),
        (true, false, false) => file!("access/clear.f32.words.wgsl"),
        (true, true, true) => file!("access/clear.half.vector.wgsl"),
        (true, true, false) => file!("access/clear.half.words.wgsl"),
    });
    source.push_str(if gradient.accumulates() {
        file!("access/accumulated.wgsl")
    } else {
        file!("access/accumulated.none.wgsl")
    });
    source.push_str(match variant.stepping {
        Stepping::Plain => file!("step/plain.wgsl"),
        Stepping::Ratio => file!("step/ratio.wgsl"),
        Stepping::Cautious => file!("step/cautious.wgsl"),
        Stepping::Averaged => file!("step/averaged.wgsl"),
    });
    if variant.noisy {
        source.push_str(file!("noise.wgsl"));
        add_once(&mut source, file!("storage/noise.wgsl"));
        add_row(&mut source, file!("tensor.wgsl"), "Tensor", false);
    } else {
        source.push_str(file!("noise.none.wgsl"));
    }
    if variant.measures() {
        add_once(&mut source, file!("partial.wgsl"));
        add_tensor_sums(&mut source);
    }
    let mut constants = proposing(variant, gradient);
    constants.push(("WEIGHT_CLIP", flag(weights.clip_value.is_some())));
    constants.push(("ACCUMULATES", flag(gradient.accumulates())));
    let health: &[Bound] = if watched { &[(Table::BlockParts(Parts::Updates), Mode::ReadWrite)] } else { &[] };
    let tables = with_lines(variant, gradient, health);
    kernel(source, "update", constants, tables)
}

fn kernel(
    mut source: String,
    entry: &'static str,
    mut constants: Vec<(&'static str, f64)>,
    tables: impl Into<Vec<Bound>>,
) -> Kernel {
    constants.push(("WORKGROUP", f64::from(WORKGROUP)));
    let tables = tables.into();
    declare_tables(&mut source, &tables);
    Kernel { source, entry, constants, tables }
}

/// Whether a kernel of a rule reads values by line.
fn reads_lines(variant: &Variant, gradient: &GradientConfig) -> bool {
    gradient.clip_adaptive.is_some() || variant.factored
}

/// Of kernels of a rule: what they have all of them, more of their own, and values by line where those are read.
fn with_lines(variant: &Variant, gradient: &GradientConfig, more: &[Bound]) -> Vec<Bound> {
    let values = reads_lines(variant, gradient).then_some((Table::LineValues, Mode::Read));
    [TABLES, SETTINGS].into_iter().chain(more.iter().copied()).chain(values).collect()
}

/// The rule and all that brings it four elements.
fn rule(variant: &Variant, gradient: &GradientConfig, access: Access) -> String {
    let mut source = variant.rule.wgsl().to_owned();
    if !source.ends_with('\n') {
        source.push('\n');
    }
    glue(&mut source, variant, access);
    if variant.stepping == Stepping::Ratio {
        source.push_str(file!("step/norms.wgsl"));
    }
    add_once(&mut source, file!("maths.wgsl"));
    source.push_str(file!("element.wgsl"));
    source.push_str(file!("propose.wgsl"));
    add_blocks(&mut source, access);
    add_tracks(&mut source, false);
    add_condition(&mut source, gradient);
    source.push_str(file!("scale.wgsl"));
    if reads_lines(variant, gradient) {
        add_block_size(&mut source);
    }
    add_unit_factors(&mut source, gradient);
    if variant.factored {
        source.push_str(file!("lines/mean_square.wgsl"));
    }
    add_weights(&mut source, variant, access);
    add_gradients(&mut source, variant, access, if access.writes_gradients() { "read_write" } else { "read" });
    if variant.kept_count() > 0 {
        add_state(&mut source, variant, access, "read_write");
    }
    source
}

fn add_sums(source: &mut String) {
    source.push_str(file!("workgroup.wgsl"));
    source.push_str(file!("partial.wgsl"));
    source.push_str(file!("sum.wgsl"));
}

/// What a step decides by track and by tensor.
fn add_tracks(source: &mut String, writes: bool) {
    add_row(source, file!("decision.wgsl"), "Track", writes);
    add_loader(source, file!("decision.wgsl"), "Decision", writes);
}

/// The tensors' sums, where parts are known.
fn add_tensor_sums(source: &mut String) {
    source.push_str(file!("sums.wgsl"));
    add_loader(source, file!("partial.wgsl"), "Partial", false);
}

fn add_blocks(source: &mut String, access: Access) {
    source.push_str(file!("settings.wgsl"));
    add_span(source, access);
}

fn add_block_size(source: &mut String) {
    let _ = writeln!(source, "const BLOCK: u32 = {BLOCK}u;");
}

fn add_unit_factors(source: &mut String, gradient: &GradientConfig) {
    source.push_str(match gradient.clip_adaptive {
        Some(_) => file!("lines/unit_factors.wgsl"),
        None => file!("lines/unit_factors.none.wgsl"),
    });
}

fn add_condition(source: &mut String, gradient: &GradientConfig) {
    source.push_str(file!("condition.wgsl"));
    if gradient.accumulates() {
        source.push_str(file!("accumulate.wgsl"));
        add_once(source, file!("maths.wgsl"));
    } else {
        source.push_str(file!("accumulate.none.wgsl"));
    }
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn conditioning(gradient: &GradientConfig) -> Vec<(&'static str, f64)> {
    let mut constants = vec![
        ("UNSCALE", flag(gradient.needs_unscaling())),
        ("ZERO_NONFINITE", flag(gradient.on_nonfinite == OnNonfinite::Zero)),
        ("CLIP_VALUE", flag(gradient.clip_value.is_some())),
    ];
    if gradient.accumulates() {
        constants.push(("KEEP_NONFINITE", flag(gradient.on_nonfinite == OnNonfinite::Skip)));
    }
    constants
}

fn proposing(variant: &Variant, gradient: &GradientConfig) -> Vec<(&'static str, f64)> {
    let mut constants: Vec<_> = variant.rule.constants().into_iter().map(|(name, on)| (name, flag(on))).collect();
    constants.extend(conditioning(gradient));
    constants.push(("SCALE", flag(gradient.needs_factors())));
    constants.push(("ANY_GRADIENT", flag(variant.rule.takes_any_gradient())));
    constants.push(("PROPAGATE", flag(gradient.on_nonfinite == OnNonfinite::Propagate)));
    constants
}

/// What ties a rule's `Hyper` and `State` to the rows and the state buffer, member by member.
fn glue(source: &mut String, variant: &Variant, access: Access) {
    let scalars = variant.rule.scalar_names();
    if scalars.is_empty() {
        source.push_str("struct Hyper {\n    none: u32,\n}\n");
    }
    let members: Vec<_> = (0..scalars.len()).map(|i| format!("track.scalars[{i}]")).collect();
    let _ = writeln!(
        source,
        "fn load_hyper(track: Track) -> Hyper {{\n    return Hyper({});\n}}",
        if members.is_empty() { "0u".to_owned() } else { members.join(", ") }
    );

    state_glue(source, variant, access);
    add_mean_square(source, variant);
}

/// Where a rule has a slot for it, the mean square with this step's gradient in it.
fn add_mean_square(source: &mut String, variant: &Variant) {
    source.push_str(
        "fn with_mean_square(s: State, g: vec4<f32>, block: Block, i: u32, track: Track) -> State {\n    var result = s;\n",
    );
    if let Some(slot) = variant.mean_square() {
        let name = variant.slots[slot].name;
        let value = if variant.factored {
            "factored_mean_square(block, i)".to_owned()
        } else {
            format!("average(s.{name}, square(g), track.scalars[0], track.scalars[1])")
        };
        let _ = writeln!(source, "    result.{name} = {value};");
    }
    source.push_str("    return result;\n}\n");
}
