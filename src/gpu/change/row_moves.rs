//! Rows of a tensor, moved on the GPU with all their slots.

use wgpu::{BindingResource, BufferBinding, BufferUsages};

use crate::error::{Error, Result};
use crate::gpu::abi::{RowSlot, Rows, Stretch};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Author, Bindings, Kind};
use crate::gpu::step::bindings::WindowBuffers;
use crate::plan::Plan;
use crate::plan::layout::{Layout, Piece};
use crate::shader;
use crate::storage::{Format, Q8_BLOCK, StateFormat};

/// `NEW` of `shaders/rows/fill.wgsl`.
pub const NEW: u32 = u32::MAX;

/// The bindings of the kernel that moves rows.
pub fn rows_bindings() -> Bindings {
    vec![(0, Kind::Uniform), (1, Kind::Read), (2, Kind::ReadWrite), (3, Kind::ReadWrite)]
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

/// A tensor's slots, and what rows that are new start from.
#[derive(Debug, Clone)]
pub struct Slots {
    params: Format,
    kept: Vec<RowSlot>,
}

impl Slots {
    pub fn of(plan: &Plan, tensor: usize) -> Self {
        let mut kept: Vec<RowSlot> = Vec::new();
        let formats = plan.variant_of(tensor).formats();
        for (slot, (format, initial)) in formats.zip(plan.row_initial_of(tensor)).enumerate() {
            let mut words = vec![0; format.words(Q8_BLOCK) as usize];
            let values = [initial as f32; Q8_BLOCK as usize];
            format.encode(&values, plan.is_signed(tensor, slot), None, &mut words);
            let last = kept.last().copied().unwrap_or_default();
            kept.push(RowSlot {
                quad_words: format.quad_words(),
                quads_before: last.quads_before + last.quad_words,
                scales_before: last.scales_before + u32::from(last.quad_words == StateFormat::Q8.quad_words()),
                fill: words[0],
                scale: words[words.len() - 1],
                ..RowSlot::default()
            });
        }
        Self { params: plan.formats_of(tensor)[0], kept }
    }

    /// How parameters are stored.
    pub fn format(&self) -> Format {
        self.params
    }

    /// Those of the state.
    pub fn kept(&self) -> &[RowSlot] {
        &self.kept
    }

    /// Parameters, as if they were the one slot of a state.
    pub fn params(&self) -> [RowSlot; 1] {
        [RowSlot { quad_words: self.params.bytes() as u32, ..RowSlot::default() }]
    }
}

impl<'a> RowMove<'a> {
    /// For rows of that many elements.
    pub fn new(gpu: &'a Gpu, name: &str, sources: &[u32], width: u64, largest: u64) -> Result<Self> {
        let (bytes, longest) = (sources.len() as u64 * 4, gpu.limits().binding);
        let refused = |problem: String| Err(Error::tensor(name, format!("its rows cannot be moved: {problem}")));
        if largest >= u64::from(NEW) {
            return refused(format!("{largest} elements are more than 2^32"));
        }
        if bytes > longest {
            return refused(format!("{} are more than a binding of {longest} bytes can list", sources.len()));
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
    pub fn add(&mut self, old: Option<Side<'_>>, fresh: Side<'_>, slots: &Slots) -> Result<()> {
        for (index, piece) in fresh.layout.pieces_of(fresh.tensor) {
            let window = &fresh.layout.windows[index];
            let buffers = &fresh.windows[index];
            let olds: Vec<_> =
                old.iter().flat_map(|o| o.layout.pieces_of(o.tensor).into_iter().map(move |p| (o, p))).collect();
            // Rows that are new are filled by each dispatch, and by one where nothing was before.
            let none = if olds.is_empty() { vec![None] } else { Vec::new() };
            for from in olds.into_iter().map(Some).chain(none) {
                let [to_params, to_state] = stretches(fresh, piece, slots.params);
                let from_stretches = from.map(|(o, (_, piece))| stretches(*o, piece, slots.params));
                let empty = Stretch { first: 0, count: 0, base: 0, elements: 0 };
                let [from_params, from_state] = from_stretches.unwrap_or([empty; 2]);
                let before = from.map(|(o, (w, _))| (&o.windows[w], &o.layout.windows[w]));
                let part = |buffers: &wgpu::Buffer, bytes: &std::ops::Range<u64>| {
                    (buffers.clone(), bytes.start, bytes.end - bytes.start)
                };
                let nothing = (self.nothing.clone(), 0, 16);
                let bound = before.map_or_else(|| nothing.clone(), |(b, w)| part(&b.params, &w.bytes));
                self.dispatch(from_params, to_params, &slots.params(), bound, part(&buffers.params, &window.bytes))?;
                let Some(state) = &buffers.state else { continue };
                let bound = before.and_then(|(b, _)| b.state.as_ref()).map_or(nothing, |b| (b.clone(), 0, b.size()));
                self.dispatch(from_state, to_state, &slots.kept, bound, (state.clone(), 0, state.size()))?;
            }
        }
        Ok(())
    }

    fn dispatch(
        &mut self,
        old: Stretch,
        fresh: Stretch,
        slots: &[RowSlot],
        before: (wgpu::Buffer, u64, u64),
        after: (wgpu::Buffer, u64, u64),
    ) -> Result<()> {
        let rows = rows_of(old, fresh, self.width, slots);
        let rows = self.gpu.buffer_of("rows", bytemuck::bytes_of(&rows), BufferUsages::UNIFORM)?;
        fn bind((buffer, offset, size): &(wgpu::Buffer, u64, u64)) -> BindingResource<'_> {
            BindingResource::Buffer(BufferBinding { buffer, offset: *offset, size: std::num::NonZeroU64::new(*size) })
        }
        let entries = [
            (0, rows.as_entire_binding()),
            (1, self.sources.as_entire_binding()),
            (2, bind(&before)),
            (3, bind(&after)),
        ];
        let group = self.gpu.bind_group("rows", &self.gpu.layout(&rows_bindings())?, &entries)?;
        let workgroups = self.gpu.limits().dispatch(fresh.count.div_ceil(4).div_ceil(shader::WORKGROUP));
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

/// What one dispatch is told.
pub fn rows_of(old: Stretch, fresh: Stretch, width: u32, slots: &[RowSlot]) -> Rows {
    let mut table = [RowSlot::default(); 8];
    table[..slots.len()].copy_from_slice(slots);
    let scaled = slots.iter().filter(|slot| slot.quad_words == StateFormat::Q8.quad_words());
    Rows {
        old,
        fresh,
        width,
        slots: slots.len() as u32,
        quad_words: slots.iter().map(|slot| slot.quad_words).sum(),
        scales: scaled.count() as u32,
        table,
    }
}

/// A piece of a tensor, in its parameters' window and in its state.
pub fn stretches(side: Side<'_>, piece: &Piece, params: Format) -> [Stretch; 2] {
    let block = &side.layout.blocks[piece.blocks.start as usize];
    let stretch = |base| Stretch {
        first: piece.elements.start as u32,
        count: (piece.elements.end - piece.elements.start) as u32,
        base,
        elements: side.elements as u32,
    };
    // Slices start at whole words.
    [stretch((u64::from(block.start) * params.bytes() / 4) as u32), stretch(block.state)]
}
