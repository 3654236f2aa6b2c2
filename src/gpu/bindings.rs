//! Spans bound to buffers: pipelines' bind groups, cached by gradient buffer.

use std::collections::HashMap;
use std::sync::Arc;

use wgpu::BufferUsages;

use super::context::Gpu;
use super::lines::LineTables;
use super::pipelines::{Bindings, Kind};
use super::rows::SpanRow;
use super::slice::Slice;
use crate::Result;
use crate::layout::{GradientPlace, Layout, Span, Window};
use crate::shader::Access;
use crate::storage::{StateFormat, code_table};

/// Times that the gradients may be bound elsewhere before a bind group not used since is dropped: it
/// keeps its buffers alive. Frameworks cycle through a few buffers.
const KEEP: u64 = 16;

/// Alignment of uniform offsets on every device.
const UNIFORM_STRIDE: u64 = 256;

/// A dispatch, ready to record.
#[derive(Debug, Clone)]
pub struct BoundSpan {
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

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    span: Span,
    gradient: wgpu::Buffer,
    clear: bool,
}

#[derive(Debug)]
struct Entry {
    bound: BoundSpan,
    used: u64,
}

/// Bound spans by what they bind.
#[derive(Debug)]
pub struct SpanCache {
    accumulates: bool,
    /// The tables of q8, where some state is compressed.
    codes: Option<wgpu::Buffer>,
    entries: HashMap<Key, Entry>,
    round: u64,
}

/// Of the kernels that change parameters, with the state, and the codes of compressed state.
pub fn update_bindings(access: Access, has_state: bool, has_codes: bool) -> Bindings {
    let gradients = if access.writes_gradients() { Kind::Write } else { Kind::Read };
    let mut bindings = vec![(0, Kind::Write), (1, gradients)];
    bindings.extend(has_state.then_some((2, Kind::Write)));
    bindings.push((3, Kind::Uniform));
    bindings.extend(has_codes.then_some((4, Kind::Uniform)));
    bindings
}

/// Of sums by unit, with the state if there is any: it may hold sums of micro-batches, and copies of
/// parameters.
pub fn unit_bindings(has_state: bool) -> Bindings {
    let mut bindings = vec![(0, Kind::Read)];
    bindings.extend(scan_bindings(has_state));
    bindings
}

/// Of the scan, with the state where micro-batches are added up in it.
pub fn scan_bindings(accumulates: bool) -> Bindings {
    let mut bindings = vec![(1, Kind::Read)];
    bindings.extend(accumulates.then_some((2, Kind::Read)));
    bindings.push((3, Kind::Uniform));
    bindings
}

impl SpanCache {
    pub fn new(gpu: &Gpu, layout: &Layout, accumulates: bool) -> Result<Self> {
        let codes = match layout.windows.iter().any(has_codes) {
            true => Some(gpu.buffer_of("codes", bytemuck::cast_slice(&codes()), BufferUsages::UNIFORM)?),
            false => None,
        };
        Ok(Self { accumulates, codes, entries: HashMap::new(), round: 0 })
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
    ) -> Result<Arc<[BoundSpan]>> {
        self.round += 1;
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
                    GradientPlace { buffer, offset: slice.offset, padded: slice.padded }
                })
            })
            .collect();
        let keys: Vec<_> = layout
            .spans(&places, gpu.limits())
            .into_iter()
            .map(|mut span| {
                let gradient = buffers[span.gradient].clone();
                // The number holds for this round only.
                span.gradient = 0;
                Key { span, gradient, clear }
            })
            .collect();
        self.create(
            gpu,
            layout,
            windows,
            lines,
            keys.iter().filter(|key| !self.entries.contains_key(key)).cloned().collect(),
        )?;
        let bound = keys
            .iter()
            .filter_map(|key| {
                let entry = self.entries.get_mut(key)?;
                entry.used = self.round;
                Some(entry.bound.clone())
            })
            .collect();
        self.entries.retain(|_, entry| self.round - entry.used <= KEEP);
        Ok(bound)
    }

    fn create(
        &mut self,
        gpu: &Gpu,
        layout: &Layout,
        windows: &[WindowBuffers],
        lines: Option<&LineTables>,
        keys: Vec<Key>,
    ) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        // One buffer for the rows of all spans that are new, never written again: encoders recorded
        // earlier may still read older ones.
        let mut rows = vec![0u8; keys.len() * UNIFORM_STRIDE as usize];
        for (key, row) in keys.iter().zip(rows.chunks_exact_mut(UNIFORM_STRIDE as usize)) {
            let [units, gradients] = jobs(lines, &key.span);
            let span = SpanRow {
                first_block: key.span.blocks.start,
                blocks: key.span.blocks.len() as u32,
                gradient_shift: key.span.gradient_shift,
                first_unit_job: units.start,
                unit_jobs: units.len() as u32,
                first_line_job: gradients.start,
                line_jobs: gradients.len() as u32,
                spare: 0,
            };
            row[..size_of::<SpanRow>()].copy_from_slice(bytemuck::bytes_of(&span));
        }
        let rows = gpu.buffer_of("spans", &rows, BufferUsages::UNIFORM)?;
        for (index, key) in keys.into_iter().enumerate() {
            let row = (&rows, index as u64 * UNIFORM_STRIDE);
            let bound = self.bind_span(gpu, layout, windows, lines, &key, row)?;
            self.entries.insert(key, Entry { bound, used: self.round });
        }
        Ok(())
    }

    fn bind_span(
        &self,
        gpu: &Gpu,
        layout: &Layout,
        windows: &[WindowBuffers],
        lines: Option<&LineTables>,
        key: &Key,
        (rows, row): (&wgpu::Buffer, u64),
    ) -> Result<BoundSpan> {
        let span = &key.span;
        let window = &layout.windows[span.window];
        let buffers = &windows[span.window];
        let access = Access { vector: span.vector, aliased: buffers.params == key.gradient, clear: key.clear };
        let part = |buffer, bytes: &std::ops::Range<u64>| wgpu::BufferBinding {
            buffer,
            offset: bytes.start,
            size: std::num::NonZeroU64::new(bytes.end - bytes.start),
        };
        let gradients = part(&key.gradient, &span.gradient_bytes);
        let uniform = part(rows, &(row..row + size_of::<SpanRow>() as u64));
        let mut entries = vec![(0, part(&buffers.params, &window.bytes)), (1, gradients.clone())];
        entries.extend(buffers.state.as_ref().map(|state| (2, state.as_entire_buffer_binding())));
        entries.push((3, uniform.clone()));
        let codes = self.codes.as_ref().filter(|_| has_codes(window));
        entries.extend(codes.map(|codes| (4, codes.as_entire_buffer_binding())));
        let update = gpu.layout(&update_bindings(access, buffers.state.is_some(), codes.is_some()))?;
        let scan = gpu.layout(&scan_bindings(self.accumulates))?;
        let mut scan_entries = vec![(1, gradients)];
        let sums = buffers.state.as_ref().filter(|_| self.accumulates);
        scan_entries.extend(sums.map(|state| (2, state.as_entire_buffer_binding())));
        scan_entries.push((3, uniform.clone()));
        let lines = lines.map(|tables| -> Result<_> {
            let [units, gradients] = jobs(Some(tables), span);
            let mut entries = vec![(0, part(&buffers.params, &window.bytes)), scan_entries[0].clone()];
            entries.extend(buffers.state.as_ref().map(|state| (2, state.as_entire_buffer_binding())));
            entries.push((3, uniform));
            let bindings = unit_bindings(buffers.state.is_some());
            Ok(BoundLines {
                units: gpu.bind_group("unit span", &gpu.layout(&bindings)?, &entries)?,
                unit_workgroups: gpu.limits().dispatch(units.len() as u32),
                gradient_workgroups: gpu.limits().dispatch(gradients.len() as u32),
            })
        });
        Ok(BoundSpan {
            variant: window.variant,
            access,
            update: gpu.bind_group("update span", &update, &entries)?,
            scan: gpu.bind_group("scan span", &scan, &scan_entries)?,
            workgroups: gpu.limits().dispatch(span.blocks.len() as u32),
            lines: lines.transpose()?,
        })
    }
}

/// Bytes of so many spans' rows, and of the codes.
pub fn bytes(layout: &Layout, spans: usize) -> u64 {
    let codes = if layout.windows.iter().any(has_codes) { size_of_val(codes().as_slice()) } else { 0 };
    spans as u64 * UNIFORM_STRIDE + codes as u64
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
fn jobs(lines: Option<&LineTables>, span: &Span) -> [std::ops::Range<u32>; 2] {
    lines.map_or([0..0, 0..0], |tables| [&tables.units, &tables.gradients].map(|stage| stage.jobs_of(&span.blocks)))
}
