//! Dispatches bound to buffers: pipelines' bind groups, kept while the gradients lie there.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::cast_slice;
use wgpu::BufferUsages;

use super::lines::LineTables;
use super::recent::{Keyed, Recent};
use crate::error::Result;
use crate::gpu::abi::{AssignmentRow, SpanRow};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Bindings, Kind};
use crate::gpu::device::slice::Slice;
use crate::gpu::device::uniforms;
use crate::gpu::device::uniforms::Uniforms;
use crate::plan::layout::{Dispatch, GradientPlace, Layout, Span, Window};
use crate::shader::Access;
use crate::storage::{StateFormat, code_table};

/// A dispatch, ready to record.
#[derive(Debug, Clone)]
pub struct BoundDispatch {
    pub variant: usize,
    pub access: Access,
    pub update: wgpu::BindGroup,
    pub scan: wgpu::BindGroup,
    pub workgroups: [u32; 2],
    /// Where something goes by lines: what the sums by unit bind, and the workgroups of both sums.
    pub lines: Option<BoundLines>,
}

/// A span's part of what goes by lines.
#[derive(Debug, Clone)]
pub struct BoundLines {
    pub units: wgpu::BindGroup,
    pub unit_workgroups: [u32; 2],
    pub gradient_workgroups: [u32; 2],
}

/// The part of a window that spans bind.
#[derive(Debug)]
pub struct WindowBuffers {
    pub params: wgpu::Buffer,
    pub state: Option<wgpu::Buffer>,
}

/// A dispatch and the gradients' buffers, a span's each. The spans' own numbers for these hold for one round
/// only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    dispatch: Dispatch,
    gradients: Vec<wgpu::Buffer>,
    clear: bool,
}

impl Keyed for Key {
    /// All that its bind groups keep alive of the caller's, a buffer that is bound twice told twice.
    fn bytes(&self) -> u64 {
        self.gradients.iter().map(wgpu::Buffer::size).sum()
    }
}

/// Bound dispatches by what they bind.
#[derive(Debug)]
pub struct DispatchCache {
    accumulates: bool,
    /// The tables of q8, where some state is compressed.
    pub codes: Option<wgpu::Buffer>,
    bound: Recent<Key, BoundDispatch>,
}

/// Of the kernels that change parameters, with the state, and the codes of compressed state.
pub fn update_bindings(access: Access, has_state: bool, has_codes: bool) -> Bindings {
    let gradients = if access.writes_gradients() { Kind::ReadWrite } else { Kind::Read };
    let table = if access.has_table() { Kind::Read } else { Kind::Uniform };
    // wgpu has no uniforms beside arrays of bindings.
    let codes = if access.bundle.is_some() { Kind::Read } else { Kind::Uniform };
    let mut bindings = vec![(0, Kind::ReadWrite.in_array(access.bundle)), (1, gradients.in_array(access.bundle))];
    bindings.extend(has_state.then_some((2, Kind::ReadWrite.in_array(access.bundle))));
    bindings.push((3, table));
    bindings.extend(has_codes.then_some((4, codes)));
    bindings
}

/// Of sums by unit, with the state if there is any: it may hold sums of micro-batches, and copies of
/// parameters.
pub fn unit_bindings(has_state: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read)];
    bindings.extend(scan_bindings(Access::default(), has_state));
    bindings
}

/// Of the scan, with the state where micro-batches are added up in it.
pub fn scan_bindings(access: Access, accumulates: bool) -> Bindings {
    let mut bindings = vec![(1, Kind::Read.in_array(access.bundle))];
    bindings.extend(accumulates.then_some((2, Kind::Read.in_array(access.bundle))));
    bindings.push((3, if access.has_table() { Kind::Read } else { Kind::Uniform }));
    bindings
}

impl DispatchCache {
    pub fn new(gpu: &Gpu, layout: &Layout, accumulates: bool) -> Result<Self> {
        let usage = BufferUsages::UNIFORM | BufferUsages::STORAGE;
        let codes = match layout.windows.iter().any(has_codes) {
            true => Some(gpu.buffer_of("codes", cast_slice(&codes()), usage)?),
            false => None,
        };
        Ok(Self { accumulates, codes, bound: Recent::default() })
    }

    /// Lets go of all that is bound.
    pub fn clear(&mut self) {
        self.bound = Recent::default();
    }

    /// The dispatches for gradients at those slices, by tensor.
    pub fn bind(
        &mut self,
        gpu: &Gpu,
        layout: &Layout,
        windows: &[WindowBuffers],
        gradients: &[Option<Slice>],
        lines: Option<&LineTables>,
        clear: bool,
    ) -> Result<Arc<[BoundDispatch]>> {
        let keys = keys(gpu, layout, gradients, lines, clear);
        let found: Vec<_> = keys.iter().map(|key| self.bound.get(key)).collect();
        let missing = keys.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(key, _)| key);
        let mut created = self.create(gpu, layout, windows, lines, &missing.collect::<Vec<_>>())?.into_iter();
        let all = found.into_iter().map(|found| found.or_else(|| created.next()));
        let bound: Vec<(Key, BoundDispatch)> =
            keys.into_iter().zip(all).filter_map(|(key, bound)| Some((key, bound?))).collect();
        let dispatches = bound.iter().map(|(_, bound)| bound.clone()).collect();
        self.bound.turn(bound);
        Ok(dispatches)
    }

    /// In the order of the keys.
    fn create(
        &self,
        gpu: &Gpu,
        layout: &Layout,
        windows: &[WindowBuffers],
        lines: Option<&LineTables>,
        keys: &[&Key],
    ) -> Result<Vec<BoundDispatch>> {
        let singles = keys.iter().filter(|key| !key.dispatch.has_table());
        let rows: Vec<_> = singles.map(|key| span_row(&key.dispatch.spans[0], lines)).collect();
        let rows = if rows.is_empty() { None } else { Some(Uniforms::new(gpu, "spans", &rows)?) };
        let mut index = 0;
        keys.iter()
            .map(|key| match &rows {
                Some(rows) if !key.dispatch.has_table() => {
                    index += 1;
                    self.bind_dispatch(gpu, layout, windows, lines, key, rows.row(index - 1))
                }
                _ => {
                    let rows = assignments(&key.dispatch);
                    let table = gpu.buffer_of("assignments", cast_slice(&rows), BufferUsages::STORAGE)?;
                    self.bind_dispatch(gpu, layout, windows, None, key, table.as_entire_binding())
                }
            })
            .collect()
    }

    /// Binds a span, or the spans of a bundle in arrays, with the table that says what a workgroup serves.
    fn bind_dispatch(
        &self,
        gpu: &Gpu,
        layout: &Layout,
        windows: &[WindowBuffers],
        lines: Option<&LineTables>,
        key: &Key,
        table: wgpu::BindingResource<'_>,
    ) -> Result<BoundDispatch> {
        let Dispatch { spans, bundle } = &key.dispatch;
        let window = &layout.windows[spans[0].window];
        let buffers = |span: &Span| &windows[span.window];
        let mut params: Vec<_> =
            spans.iter().map(|s| part(&buffers(s).params, &layout.windows[s.window].bytes)).collect();
        let mut gradients: Vec<_> =
            spans.iter().zip(&key.gradients).map(|(span, buffer)| part(buffer, &span.gradient_bytes)).collect();
        let state = |span| buffers(span).state.as_ref();
        let mut states: Vec<_> = spans.iter().filter_map(state).map(|b| b.as_entire_buffer_binding()).collect();
        for array in [&mut params, &mut gradients, &mut states] {
            fill_up(array, *bundle);
        }
        let resource = |array| match bundle {
            Some(_) => wgpu::BindingResource::BufferArray(array),
            None => wgpu::BindingResource::Buffer(array[0].clone()),
        };

        let access = access_of(key, windows);
        let has_state = !states.is_empty();
        let codes = self.codes.as_ref().filter(|_| has_codes(window));
        let mut entries = vec![(0, resource(&params)), (1, resource(&gradients))];
        entries.extend(has_state.then(|| (2, resource(&states))));
        entries.push((3, table.clone()));
        entries.extend(codes.map(|codes| (4, codes.as_entire_binding())));
        let update = gpu.layout(&update_bindings(access, has_state, codes.is_some()))?;

        let accumulated = self.accumulates && has_state;
        let mut scan_entries = vec![(1, resource(&gradients))];
        scan_entries.extend(accumulated.then(|| (2, resource(&states))));
        scan_entries.push((3, table.clone()));
        let scan = gpu.layout(&scan_bindings(access, self.accumulates))?;

        let lines = lines.map(|tables| -> Result<_> {
            let [units, line_jobs] = jobs(Some(tables), &spans[0]);
            let mut entries = vec![(0, resource(&params)), (1, resource(&gradients))];
            entries.extend(has_state.then(|| (2, resource(&states))));
            entries.push((3, table));
            Ok(BoundLines {
                units: gpu.bind_group("unit span", &gpu.layout(&unit_bindings(has_state))?, &entries)?,
                unit_workgroups: gpu.limits().dispatch(units.len() as u32),
                gradient_workgroups: gpu.limits().dispatch(line_jobs.len() as u32),
            })
        });
        Ok(BoundDispatch {
            variant: window.variant,
            access,
            update: gpu.bind_group("update span", &update, &entries)?,
            scan: gpu.bind_group("scan span", &scan, &scan_entries)?,
            workgroups: gpu.limits().dispatch(key.dispatch.blocks() as u32),
            lines: lines.transpose()?,
        })
    }
}

fn part<'a>(buffer: &'a wgpu::Buffer, bytes: &Range<u64>) -> wgpu::BufferBinding<'a> {
    wgpu::BufferBinding { buffer, offset: bytes.start, size: std::num::NonZeroU64::new(bytes.end - bytes.start) }
}

/// Repeats the last binding up to the size of an array: a layout says how many there are, and no assignment names these.
fn fill_up<T: Clone>(array: &mut Vec<T>, bundle: Option<NonZeroU32>) {
    if let (Some(size), Some(last)) = (bundle, array.last().cloned()) {
        array.resize(size.get() as usize, last);
    }
}

/// The accesses of the dispatches for gradients at those slices, by variant.
pub fn accesses(
    gpu: &Gpu,
    layout: &Layout,
    windows: &[WindowBuffers],
    gradients: &[Option<Slice>],
    lines: Option<&LineTables>,
    clear: bool,
) -> Vec<(usize, Access)> {
    let keys = keys(gpu, layout, gradients, lines, clear);
    keys.iter().map(|key| (layout.windows[key.dispatch.spans[0].window].variant, access_of(key, windows))).collect()
}

fn keys(gpu: &Gpu, layout: &Layout, gradients: &[Option<Slice>], lines: Option<&LineTables>, clear: bool) -> Vec<Key> {
    let mut buffers: Vec<&wgpu::Buffer> = Vec::new();
    let mut numbers = HashMap::new();
    let places: Vec<_> = gradients
        .iter()
        .map(|slice| {
            slice.as_ref().map(|slice| {
                let buffer = *numbers.entry(&slice.buffer).or_insert_with(|| {
                    buffers.push(&slice.buffer);
                    buffers.len() - 1
                });
                GradientPlace { buffer, offset: slice.offset, padded: slice.is_padded() }
            })
        })
        .collect();
    let spans = layout.spans(&places, gpu.limits());
    layout
        .dispatches(spans, gpu.limits(), lines.is_none())
        .into_iter()
        .map(|mut dispatch| {
            let number = |span: &mut Span| buffers[std::mem::take(&mut span.gradient)].clone();
            Key { gradients: dispatch.spans.iter_mut().map(number).collect(), dispatch, clear }
        })
        .collect()
}

/// How the kernels of a dispatch reach memory.
fn access_of(key: &Key, windows: &[WindowBuffers]) -> Access {
    let Dispatch { spans, bundle } = &key.dispatch;
    let written: HashSet<_> = spans.iter().map(|span| &windows[span.window].params).collect();
    Access {
        vector: spans[0].vector,
        aliased: key.gradients.iter().any(|buffer| written.contains(buffer)),
        clear: key.clear,
        listed: key.dispatch.is_list(),
        bundle: *bundle,
    }
}

fn span_row(span: &Span, lines: Option<&LineTables>) -> SpanRow {
    let [units, gradients] = jobs(lines, span);
    SpanRow {
        first_block: span.blocks.start,
        blocks: span.blocks.len() as u32,
        gradient_shift: span.gradient_shift,
        first_unit_job: units.start,
        unit_jobs: units.len() as u32,
        first_line_job: gradients.start,
        line_jobs: gradients.len() as u32,
        spare: 0,
    }
}

/// What each workgroup of a list or a bundle serves.
fn assignments(dispatch: &Dispatch) -> Vec<AssignmentRow> {
    let of_span = |(member, span): (usize, &Span)| {
        let gradient_shift = span.gradient_shift;
        span.blocks.clone().map(move |row| AssignmentRow { row, member: member as u32, gradient_shift, spare: 0 })
    };
    dispatch.spans.iter().enumerate().flat_map(of_span).collect()
}

/// Bytes of the tables of those dispatches, and of the codes.
pub fn bytes(layout: &Layout, dispatches: &[Dispatch]) -> u64 {
    let codes = if layout.windows.iter().any(has_codes) { size_of_val(codes().as_slice()) } else { 0 };
    let of_dispatch = |dispatch: &Dispatch| match dispatch.has_table() {
        true => (dispatch.blocks() * size_of::<AssignmentRow>()) as u64,
        false => uniforms::bytes(1),
    };
    codes as u64 + dispatches.iter().map(of_dispatch).sum::<u64>()
}

fn has_codes(window: &Window) -> bool {
    window.slots.contains(&StateFormat::Q8)
}

/// `Codes` of `shaders/storage/q8.wgsl`.
fn codes() -> Vec<f32> {
    let tables = [true, false].map(code_table);
    let values = tables.iter().flat_map(|table| table.values);
    values.chain(tables.iter().flat_map(|table| table.bounds)).collect()
}

/// A span's jobs by unit, and by row and column.
fn jobs(lines: Option<&LineTables>, span: &Span) -> [Range<u32>; 2] {
    lines.map_or([0..0, 0..0], |tables| [&tables.units, &tables.gradients].map(|stage| stage.jobs_of(&span.blocks)))
}
