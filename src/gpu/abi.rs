//! Rows that the host and the kernels share. A test reflects the composed shaders against them.

use bytemuck::{Pod, Zeroable};

use crate::plan::Plan;
use crate::rule::hyper::MAX_SCALARS;

/// `Settings` of `shaders/settings.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable, Default)]
pub struct Settings {
    pub blocks: u32,
    pub parts: u32,
    pub tensors: u32,
    pub tracks: u32,
    pub tensors_at: u32,
    pub absent_at: u32,
    pub decisions_at: u32,
    pub tracks_at: u32,
    pub sums_at: u32,
    pub line_sets_at: u32,
    pub rates_at: u32,
    pub factors_at: u32,
    pub factor_rows: u32,
    pub clip_value: f32,
    pub norm_limit: f32,
    pub weight_clip: f32,
    pub weight_limit: f32,
    pub accumulate: u32,
    pub mean: f32,
    pub growth_interval: u32,
    pub growth_factor: f32,
    pub backoff_factor: f32,
    pub ema_interval: u32,
    pub ema_decay: f32,
    pub ema_weight: f32,
    pub noise: f32,
}

/// `Block` of `shaders/blocks.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct BlockRow {
    pub tensor: u32,
    pub number: u32,
    pub len: u32,
    pub start: u32,
    pub state: u32,
    pub partial: u32,
    /// 1 where its gradients have no part in norms.
    pub unclipped: u32,
    pub spare: u32,
}

/// `Span` of `shaders/span.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable, Default)]
pub struct SpanRow {
    pub first_block: u32,
    pub blocks: u32,
    pub gradient_shift: u32,
    pub first_unit_job: u32,
    pub unit_jobs: u32,
    pub first_line_job: u32,
    pub line_jobs: u32,
    pub spare: u32,
}

/// `Assignment` of `shaders/list.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct AssignmentRow {
    pub row: u32,
    pub member: u32,
    pub gradient_shift: u32,
    pub spare: u32,
}

/// `LineSet` of `shaders/lines/set.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct LineSet {
    pub tensor: u32,
    pub kind: u32,
    pub count: u32,
    pub length: u32,
    pub stride: u32,
    pub inner: u32,
    pub outer: u32,
    pub threads: u32,
    pub steps: u32,
    pub partials_at: u32,
    pub parts: u32,
    pub out_at: u32,
}

/// `LineJob` of `shaders/lines/set.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct LineJob {
    pub line_set: u32,
    pub first_line: u32,
    pub from_element: u32,
    pub part: u32,
    pub first_element: u32,
    pub end_element: u32,
    pub start: u32,
    pub state: u32,
    pub block_state: u32,
    pub spare0: u32,
    pub spare1: u32,
    pub spare2: u32,
}

/// Where a tensor's values by line are, in words: the head of `lines`, which
/// `shaders/lines/unit_factors.wgsl` and `shaders/lines/mean_square.wgsl` read.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable, Default)]
pub struct LineHeader {
    pub units_at: u32,
    pub units: u32,
    pub rows_at: u32,
    pub columns_at: u32,
    pub means_at: u32,
    /// Of each matrix.
    pub rows: u32,
    pub columns: u32,
    pub spare: u32,
}

/// `Tensor` of `shaders/tensor.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct TensorRow {
    pub track: u32,
    pub live: u32,
    pub first_partial: u32,
    pub partials: u32,
    pub elements: f32,
    /// 1 where the rule averages its iterates.
    pub averages: u32,
    pub key: u32,
    /// 1 where limits and normalising of norms leave its gradients alone.
    pub unclipped: u32,
    pub noise_key: u32,
}

/// The head of `Control` of `shaders/control.wgsl`; the tensors' counts follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable, Default)]
pub struct Control {
    pub taken: u32,
    pub skipped: u32,
    pub accumulated: u32,
    pub micro: u32,
    pub nonfinite: u32,
    pub skip: u32,
    pub norm_mantissa: f32,
    pub norm_exponent: i32,
    pub exponent: i32,
    pub coefficient: f32,
    pub lr: f32,
    pub loss_scale: f32,
    pub unscale: f32,
    pub good_steps: u32,
    pub phase: u32,
    pub generation: u32,
    pub found: u32,
    pub found_more: u32,
}

/// Bytes of the control block with the tensors' counts, and where a rule averages its iterates their
/// sums of weights.
pub fn control_bytes(plan: &Plan) -> u64 {
    let words = if plan.averages() { 2 } else { 1 };
    (size_of::<Control>() + 4 * words * plan.tensors.len().max(1)) as u64
}

/// `Move` of `shaders/keep.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Move {
    pub before: u32,
    pub after: u32,
    pub words: u32,
    pub spare: u32,
}

/// `PhaseChange` of `shaders/phase.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct PhaseChange {
    pub before: u32,
    pub after: u32,
}

/// `Partial` of `shaders/partial.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Partial {
    pub small: f32,
    pub middle: f32,
    pub large: f32,
    pub largest: f32,
    pub count: u32,
    pub zeros: u32,
    pub spare: [u32; 2],
}

impl Partial {
    /// The root of the sum of squares, which may leave f32.
    pub fn norm(&self) -> f64 {
        let [large, small] = [2f64.powi(82), 2f64.powi(-76)];
        let squares =
            f64::from(self.large) * large * large + f64::from(self.middle) + f64::from(self.small) * small * small;
        squares.sqrt()
    }
}

/// `Track` of `shaders/decision.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Track {
    pub lr: f32,
    pub lr_decoupled: f32,
    pub coupled: f32,
    pub in_ratio: f32,
    pub sign: f32,
    pub unscale: f32,
    pub ema_decay: f32,
    pub ema_weight: f32,
    pub scalars: [f32; MAX_SCALARS],
}

/// `Decision` of `shaders/decision.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Decision {
    pub action: u32,
    pub track: u32,
    pub exponent: i32,
    pub coefficient: f32,
    pub elements: f32,
    pub share: f32,
    pub key: u32,
    pub steps: u32,
}

/// The first four words of a track in the step table, which `resolve` in `shaders/prepare.wgsl` reads.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct TrackSource {
    pub group: u32,
    /// 0 follows the optimizer's count; else one more than the tensor whose count it follows.
    pub counts: u32,
    pub rows_at: u32,
    pub rows: u32,
}

/// A group's rates in the step table, read likewise.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RatesRow {
    /// Over the unit that the factors are multiplied with.
    pub lr: f32,
    /// These three are multiplied with what the row says.
    pub coupled: f32,
    pub decoupled: f32,
    pub in_ratio: f32,
    pub sign: f32,
    /// The first word of the ring of factors that the rate goes by; 0 where it does not multiply the direction.
    pub factors_at: u32,
    pub spare: [u32; 2],
}

/// `Stretch` of `shaders/rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Stretch {
    pub first: u32,
    pub count: u32,
    pub base: u32,
    pub elements: u32,
}

/// `Rows` of `shaders/rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Rows {
    pub old: Stretch,
    pub fresh: Stretch,
    pub width: u32,
    pub slots: u32,
    pub quad_words: u32,
    pub scales: u32,
    pub table: [RowSlot; 8],
}

/// `Run` of `shaders/rows/start.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Run {
    pub first: u32,
    pub before: u32,
    pub mask: u32,
    pub spare: u32,
}

/// `RowSlot` of `shaders/rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub struct RowSlot {
    pub quad_words: u32,
    pub quads_before: u32,
    pub scales_before: u32,
    pub fill: u32,
    pub scale: u32,
    pub spare0: u32,
    pub spare1: u32,
    pub spare2: u32,
}

/// Words of one step in the step table: its scalars, and what multiplies the decay.
pub const ROW_WORDS: usize = MAX_SCALARS + 1;
