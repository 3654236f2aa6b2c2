//! Rows of a tensor, moved on the GPU with all their slots.

use wgpu::{BufferBinding, BufferUsages};

use super::bindings::WindowBuffers;
use super::context::Gpu;
use super::optimizer::Optimizer;
use super::pipelines::{Author, Bindings, Kind};
use super::rows::{Rows, Stretch};
use super::transfer;
use crate::layout::{Layout, Piece};
use crate::{Error, Result, shader};

/// `NEW` and `KEEP` of `shaders/rows.wgsl`.
pub const NEW: u32 = u32::MAX;
pub const KEEP: u32 = u32::MAX - 1;

/// The bindings of `shaders/rows.wgsl`.
pub fn rows_bindings() -> Bindings {
    vec![(0, Kind::Uniform), (1, Kind::Read), (2, Kind::Write), (3, Kind::Write)]
}

/// What a tensor's rows become, on one device.
#[derive(Debug)]
pub struct RowMove<'a> {
    gpu: &'a Gpu,
    sources: wgpu::Buffer,
    /// For stretches that are only filled: something to bind.
    nothing: wgpu::Buffer,
    width: u32,
    dispatches: Vec<(wgpu::BindGroup, [u32; 2])>,
}

/// A tensor's place in a layout.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    pub layout: &'a Layout,
    pub windows: &'a [WindowBuffers],
    pub tensor: usize,
    pub elements: u64,
}

impl<'a> RowMove<'a> {
    /// For rows of that many elements.
    pub fn new(gpu: &'a Gpu, name: &str, sources: &[u32], width: u64, largest: u64) -> Result<Self> {
        let bytes = sources.len() as u64 * 4;
        if largest >= u64::from(KEEP) || bytes > gpu.limits().binding {
            return Err(Error::tensor(name, format!("rows of {largest} elements cannot be moved: 2^32 are too many")));
        }
        let usage = BufferUsages::STORAGE;
        Ok(Self {
            gpu,
            sources: gpu.buffer_of("row sources", bytemuck::cast_slice(sources), usage)?,
            nothing: gpu.buffer("nothing", 16, usage)?,
            width: width as u32,
            dispatches: Vec::new(),
        })
    }

    /// Plans parameters and state of a tensor: from its old place, if it has one, to its new.
    pub fn add(&mut self, old: Option<Side<'_>>, fresh: Side<'_>, initial: &[f64]) -> Result<()> {
        for (index, piece) in fresh.layout.pieces_of(fresh.tensor) {
            let window = &fresh.layout.windows[index];
            let buffers = &fresh.windows[index];
            let olds: Vec<_> =
                old.iter().flat_map(|o| o.layout.pieces_of(o.tensor).into_iter().map(move |p| (o, p))).collect();
            // Rows that are new are filled by each dispatch, and by one where nothing was before.
            let none = if olds.is_empty() { vec![None] } else { Vec::new() };
            for from in olds.into_iter().map(Some).chain(none) {
                let [to_params, to_state] = stretches(fresh, piece);
                let from_stretches = from.map(|(o, (_, piece))| stretches(*o, piece));
                let empty = Stretch { first: 0, count: 0, base: 0, elements: 0 };
                let [from_params, from_state] = from_stretches.unwrap_or([empty; 2]);
                let before = from.map(|(o, (w, _))| (&o.windows[w], &o.layout.windows[w]));
                let part = |buffers: &wgpu::Buffer, bytes: &std::ops::Range<u64>| {
                    (buffers.clone(), bytes.start, bytes.end - bytes.start)
                };
                let nothing = (self.nothing.clone(), 0, 16);
                let bound = before.map_or_else(|| nothing.clone(), |(b, w)| part(&b.params, &w.bytes));
                self.dispatch(from_params, to_params, &[0.0], bound, part(&buffers.params, &window.bytes))?;
                let Some(state) = &buffers.state else { continue };
                let bound = before.and_then(|(b, _)| b.state.as_ref()).map_or(nothing, |b| (b.clone(), 0, b.size()));
                self.dispatch(from_state, to_state, initial, bound, (state.clone(), 0, state.size()))?;
            }
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        old: Stretch,
        fresh: Stretch,
        initial: &[f64],
        before: (wgpu::Buffer, u64, u64),
        after: (wgpu::Buffer, u64, u64),
    ) -> Result<()> {
        let mut values = [0f32; 8];
        values.iter_mut().zip(initial).for_each(|(to, from)| *to = *from as f32);
        let rows = Rows { old, fresh, width: self.width, slots: initial.len() as u32, spare: [0; 2], initial: values };
        let rows = self.gpu.buffer_of("rows", bytemuck::bytes_of(&rows), BufferUsages::UNIFORM)?;
        fn bind((buffer, offset, size): &(wgpu::Buffer, u64, u64)) -> BufferBinding<'_> {
            BufferBinding { buffer, offset: *offset, size: std::num::NonZeroU64::new(*size) }
        }
        let entries = [
            (0, rows.as_entire_buffer_binding()),
            (1, self.sources.as_entire_buffer_binding()),
            (2, bind(&before)),
            (3, bind(&after)),
        ];
        let group = self.gpu.bind_group("rows", &self.gpu.layout(&rows_bindings())?, &entries)?;
        let workgroups = self.gpu.limits().dispatch(fresh.count.div_ceil(shader::WORKGROUP));
        self.dispatches.push((group, workgroups));
        Ok(())
    }

    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let pipeline = self.gpu.pipeline(shader::rows(), Author::Ours, &[rows_bindings()])?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some("rows"), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        pass.set_pipeline(&pipeline);
        for (group, [x, y]) in &self.dispatches {
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*x, *y, 1);
        }
        Ok(())
    }
}

/// A piece of a tensor, in its parameters' window and in its state.
fn stretches(side: Side<'_>, piece: &Piece) -> [Stretch; 2] {
    let block = &side.layout.blocks[piece.blocks.start as usize];
    let stretch = |base| Stretch {
        first: piece.elements.start as u32,
        count: (piece.elements.end - piece.elements.start) as u32,
        base,
        elements: side.elements as u32,
    };
    [stretch(block.start), stretch(block.state)]
}

impl Optimizer {
    /// Records that rows of a tensor start anew: parameters become 0 and slots what they start from. Rows lie
    /// along the first dimension. The tensor's count of steps stays.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen, has no rows or not so many; or the device refuses what this needs.
    /// Nothing is recorded then.
    pub fn zero_rows(&mut self, encoder: &mut wgpu::CommandEncoder, name: &str, rows: &[u32]) -> Result<()> {
        self.check_training("zero_rows")?;
        let tensor = self.plan.movable_tensor(name)?;
        let planned = &self.plan.tensors[tensor];
        let (count, width) = planned.rows()?;
        let mut sources = vec![KEEP; count as usize];
        for row in rows {
            *sources.get_mut(*row as usize).ok_or_else(|| Error::no_row(name, (*row).into(), count))? = NEW;
        }
        let side = Side { layout: &self.layout, windows: &self.windows, tensor, elements: planned.elements };
        let mut moved = RowMove::new(&self.gpu, name, &sources, width, planned.elements)?;
        moved.add(None, side, &self.plan.initial_of(tensor))?;
        moved.record(encoder)?;
        if let Some(lines) = &self.tables.lines {
            let places = transfer::factors_at(&self.plan, &lines.tables.headers, tensor);
            for (at, width) in places.zip(self.plan.factor_widths(tensor)) {
                let Some(width) = width else { continue };
                for row in rows {
                    let first = u64::from(at) + u64::from(*row) * width;
                    encoder.clear_buffer(&lines.values, first * 4, Some(width * 4));
                }
            }
        }
        Ok(())
    }
}
