//! A tensor's parameters, kept beside and brought back by the device, which alone knows what it has done.

use std::sync::Arc;

use wgpu::{BindingResource, BufferBinding, BufferUsages};

use super::bindings::BoundDispatch;
use crate::error::Result;
use crate::gpu::abi::Move;
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Author, Bindings, Kind};
use crate::gpu::device::slice::Slice;
use crate::plan::layout::BLOCK;
use crate::shader;

/// The bindings of `shaders/keep.wgsl`.
pub fn keep_bindings() -> Bindings {
    vec![(0, Kind::Uniform), (1, Kind::Read), (2, Kind::ReadWrite), (3, Kind::Read), (4, Kind::Uniform)]
}

/// The bindings of `shaders/change_phase.wgsl`.
pub fn change_phase_bindings() -> Bindings {
    vec![(0, Kind::ReadWrite), (1, Kind::Uniform)]
}

/// Room for a tensor's parameters to train with, while others lie in their place.
#[derive(Debug)]
pub struct Kept {
    pub tensor: usize,
    pub buffer: wgpu::Buffer,
    keep: Vec<Dispatch>,
    restore: Vec<Dispatch>,
}

/// What evaluations need besides, made for the first.
#[derive(Debug, Default)]
pub struct Evaluation {
    pub kept: Vec<Kept>,
    /// Over all tensors, with gradients or without.
    pub whole: Option<Arc<[BoundDispatch]>>,
}

impl Evaluation {
    /// Where parameters to train with lie while others lie in their place, and whose they are.
    pub fn kept(&self) -> impl Iterator<Item = (usize, &wgpu::Buffer)> {
        self.kept.iter().map(|kept| (kept.tensor, &kept.buffer))
    }

    /// Other kernels are wanted from now on.
    pub fn forget_dispatches(&mut self) {
        self.whole = None;
    }
}

type Dispatch = (wgpu::BindGroup, [u32; 2]);

impl Kept {
    /// With the phases in which parameters are kept, and are brought back.
    pub fn new(
        gpu: &Gpu,
        tensor: usize,
        params: &Slice,
        control: &wgpu::Buffer,
        turns: [BindingResource<'_>; 2],
    ) -> Result<Self> {
        let bytes = params.size.next_multiple_of(4);
        let buffer = gpu.buffer("training weights", bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC)?;
        let mut kept = Self { tensor, buffer, keep: Vec::new(), restore: Vec::new() };
        let limits = gpu.limits();
        // So that both sides can be bound, wherever the slice starts.
        let longest = (limits.binding - limits.alignment) / limits.alignment * limits.alignment;
        let mut done = 0;
        while done < bytes {
            let size = (bytes - done).min(longest);
            let own = part(&kept.buffer, done, size);
            let at = params.offset + done;
            let start = at / limits.alignment * limits.alignment;
            let theirs = part(&params.buffer, start, at - start + size);
            let [away, words] = [(at - start) / 4, size / 4].map(|n| n as u32);
            let workgroups = limits.dispatch(words.div_ceil(BLOCK as u32));
            let group =
                |row: Move, from: &BindingResource<'_>, to: &BindingResource<'_>, turn: &BindingResource<'_>| {
                    let row = gpu.buffer_of("move", bytemuck::bytes_of(&row), BufferUsages::UNIFORM)?;
                    let bound =
                        [row.as_entire_binding(), from.clone(), to.clone(), control.as_entire_binding(), turn.clone()];
                    let entries: Vec<_> = (0..).zip(bound).collect();
                    gpu.bind_group("kept weights", &gpu.layout(&keep_bindings())?, &entries)
                };
            let row = Move { before: away, after: 0, words, spare: 0 };
            kept.keep.push((group(row, &theirs, &own, &turns[0])?, workgroups));
            let row = Move { before: 0, after: away, words, spare: 0 };
            kept.restore.push((group(row, &own, &theirs, &turns[1])?, workgroups));
            done += size;
        }
        Ok(kept)
    }

    /// Records that the parameters are kept.
    pub fn keep(&self, pass: &mut wgpu::ComputePass<'_>) {
        record(pass, &self.keep);
    }

    /// Records that the kept parameters take their place again.
    pub fn restore(&self, pass: &mut wgpu::ComputePass<'_>) {
        record(pass, &self.restore);
    }
}

/// The pipeline that the dispatches of [`Kept`] need.
pub fn pipeline(gpu: &Gpu) -> Result<wgpu::ComputePipeline> {
    gpu.pipeline(shader::keep(), Author::Ours, &[keep_bindings()])
}

/// The kernel that goes on to another phase, bound.
#[derive(Debug)]
pub struct PhaseChanging {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl PhaseChanging {
    pub fn new(gpu: &Gpu, control: &wgpu::Buffer, turn: BindingResource<'_>) -> Result<Self> {
        let entries = [(0, control.as_entire_binding()), (1, turn)];
        Ok(Self {
            pipeline: gpu.pipeline(shader::change_phase(), Author::Ours, &[change_phase_bindings()])?,
            group: gpu.bind_group("turn", &gpu.layout(&change_phase_bindings())?, &entries)?,
        })
    }

    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
}

fn record(pass: &mut wgpu::ComputePass<'_>, dispatches: &[Dispatch]) {
    for (group, [x, y]) in dispatches {
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(*x, *y, 1);
    }
}

fn part(buffer: &wgpu::Buffer, offset: u64, size: u64) -> BindingResource<'_> {
    BindingResource::Buffer(BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) })
}
