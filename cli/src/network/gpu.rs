//! The network on the GPU: images, mini-batches and what lies between the layers stay there.
//! Parameters and gradients are the arena's; the kernels bind its slices, or f32 copies of those in 16 bits.

use wgpu_optim::plan::Plan;
use wgpu_optim::wgpu::util::{BufferInitDescriptor, DeviceExt};
use wgpu_optim::wgpu::{self, BindGroup, Buffer, BufferBinding, BufferUsages, CommandEncoder, Device};
use wgpu_optim::{Arena, Gpu};

use super::casts::Casts;
use super::kernels::{Dispatch, Kernels};
use super::{WIDTHS, batches, layers};
use crate::digits::Digits;
use crate::error::Result;

/// The network's forward and backward passes over the training images and its forward pass over those
/// held back.
#[derive(Debug)]
pub struct GpuNetwork {
    pub training: ImageSet,
    pub held_back: ImageSet,
    forward: Vec<Dispatch>,
    backward: Vec<Dispatch>,
    casts: Casts,
}

/// Images in an order of their own, cut into mini-batches.
#[derive(Debug)]
pub struct ImageSet {
    /// Which images, by place.
    pub order: Buffer,
    /// Two f32 an image, by its place in the order: the loss, and 1 if it is recognised, else 0.
    pub outcomes: Buffer,
    /// Rows of each mini-batch.
    rows: Vec<usize>,
    /// Bytes from one mini-batch's entry in the table to the next.
    stride: usize,
    table: BindGroup,
    gather: Dispatch,
    loss: Dispatch,
}

/// What all image sets bind.
struct Shared {
    images: Buffer,
    labels: Buffer,
    /// The inputs of each layer, and last the logits.
    values: Vec<Buffer>,
    /// The gradients of the loss with respect to each of `values`; to the images none is needed.
    deltas: Vec<Buffer>,
}

impl GpuNetwork {
    pub fn new(gpu: &Gpu, plan: &Plan, arena: &Arena, digits: &Digits, batch: usize) -> Result<Self> {
        let casts = Casts::new(gpu, plan, arena)?;
        let device = gpu.device();
        let kernels = Kernels::new(device);
        // Those held back go through in one go.
        let rows = batch.max(digits.held_back.len());
        let between = |width: &usize| storage(device, "values", &vec![0f32; rows * width]);
        let labels: Vec<u32> = digits.labels.iter().map(|label| u32::from(*label)).collect();
        let shared = Shared {
            images: storage(device, "images", &digits.images),
            labels: storage(device, "labels", &labels),
            values: WIDTHS.iter().map(between).collect(),
            deltas: WIDTHS.iter().map(between).collect(),
        };
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        for (index, layer) in layers().enumerate() {
            let weight = || casts.params(&layer.weight());
            let bias = casts.params(&layer.bias())?;
            let gradients = [casts.gradient(&layer.weight())?, casts.gradient(&layer.bias())?];
            let (x, y) = (|| whole(&shared.values[index]), || whole(&shared.values[index + 1]));
            let delta = || whole(&shared.deltas[index + 1]);
            forward.push(kernels.forward(layer, [x(), weight()?, bias], y()));
            // Reversed below, so that a layer's weights come before what the layer under it waits for.
            if index > 0 {
                backward.push(kernels.backward_input(layer, [x(), weight()?, delta()], whole(&shared.deltas[index])));
            }
            backward.push(kernels.backward_weights(layer, [x(), delta()], gradients));
        }
        backward.reverse();
        Ok(Self {
            training: ImageSet::new(device, &kernels, &shared, &digits.training, batch),
            held_back: ImageSet::new(device, &kernels, &shared, &digits.held_back, rows),
            forward,
            backward,
            casts,
        })
    }

    /// Records a mini-batch of the training images, forward and backward: its outcomes, and its
    /// gradients into the arena.
    pub fn record_gradients(&self, encoder: &mut CommandEncoder, batch: usize) {
        self.record(encoder, &self.training, batch, &self.backward);
    }

    /// Records the forward pass over the images held back.
    pub fn record_judging(&self, encoder: &mut CommandEncoder) {
        for batch in 0..self.held_back.rows.len() {
            self.record(encoder, &self.held_back, batch, &[]);
        }
    }

    fn record(&self, encoder: &mut CommandEncoder, set: &ImageSet, batch: usize, backward: &[Dispatch]) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.casts.widen(&mut pass);
        pass.set_bind_group(0, &set.table, &[(batch * set.stride) as u32]);
        let forward = std::iter::once(&set.gather).chain(&self.forward).chain([&set.loss]);
        for dispatch in forward.chain(backward) {
            dispatch.record(&mut pass, set.rows[batch]);
        }
        if !backward.is_empty() {
            self.casts.narrow(&mut pass);
        }
    }
}

impl ImageSet {
    fn new(device: &Device, kernels: &Kernels<'_>, shared: &Shared, images: &[u32], batch: usize) -> Self {
        let order = storage(device, "order", images);
        let outcomes = storage(device, "outcomes", &vec![0f32; 2 * images.len()]);
        let batches = batches(images.len(), batch);
        // `Batch` of the kernels: two words.
        let stride = 8usize.next_multiple_of(device.limits().min_uniform_buffer_offset_alignment as usize);
        let mut words = vec![0u32; batches.len() * stride / 4];
        for (entry, batch) in words.chunks_exact_mut(stride / 4).zip(&batches) {
            entry[..2].copy_from_slice(&[batch.start as u32, batch.len() as u32]);
        }
        let table = buffer(device, "mini-batches", &words, BufferUsages::UNIFORM);
        let entry = BufferBinding { buffer: &table, offset: 0, size: wgpu::BufferSize::new(8) };
        let table = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("mini-batches"),
            layout: kernels.batch(),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(entry) }],
        });
        let last = WIDTHS.len() - 1;
        let gather = kernels.gather([whole(&shared.images), whole(&order)], whole(&shared.values[0]));
        let loss = kernels.loss(
            [whole(&shared.values[last]), whole(&shared.labels), whole(&order)],
            [whole(&shared.deltas[last]), whole(&outcomes)],
        );
        let rows = batches.iter().map(|batch| batch.len()).collect();
        Self { order, outcomes, rows, stride, table, gather, loss }
    }

    /// Mini-batches of the set.
    pub fn batches(&self) -> usize {
        self.rows.len()
    }
}

fn whole(buffer: &Buffer) -> BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

fn storage<T: bytemuck::NoUninit>(device: &Device, label: &str, contents: &[T]) -> Buffer {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    buffer(device, label, contents, usage)
}

fn buffer<T: bytemuck::NoUninit>(device: &Device, label: &str, contents: &[T], usage: BufferUsages) -> Buffer {
    let contents = bytemuck::cast_slice(contents);
    device.create_buffer_init(&BufferInitDescriptor { label: Some(label), contents, usage })
}
