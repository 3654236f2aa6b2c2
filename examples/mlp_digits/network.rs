//! The network's kernels, which bind the arena's slices, and the images.

use wgpu_optim::wgpu::util::{BufferInitDescriptor, DeviceExt, DownloadBuffer};
use wgpu_optim::wgpu::{self, BindGroupEntry, Buffer, BufferBinding, BufferUsages, CommandEncoder};
use wgpu_optim::{Arena, Gpu};

use super::Result;

/// Values between the layers, from the pixels to the digits.
pub const WIDTHS: [usize; 4] = [64, 64, 32, 10];
/// Images there are.
pub const IMAGES: usize = DIGITS.len() / ROW;

/// Rows of 64 pixels, from 0 to 16, and a label; `cli/data/README.md` says where they come from.
static DIGITS: &[u8] = include_bytes!("../../cli/data/digits.bin");
const ROW: usize = 65;

/// Entry point and text of a kernel: those that `train` uses.
macro_rules! shader {
    ($name:literal) => {{
        const SHARED: &str = include_str!("../../cli/shaders/batch.wgsl");
        ($name, [SHARED, include_str!(concat!("../../cli/shaders/", $name, ".wgsl"))].concat())
    }};
}

/// What became of an image.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub loss: f32,
    pub correct: bool,
}

pub struct Network {
    gpu: Gpu,
    batch: Buffer,
    order: Buffer,
    outcomes: Buffer,
    forward: Vec<Dispatch>,
    backward: Vec<Dispatch>,
}

/// A kernel with what it binds.
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    groups: [wgpu::BindGroup; 2],
    /// Invocations for each row of the mini-batch, and besides.
    invocations: (usize, usize),
}

impl Network {
    /// For mini-batches of that many rows at most.
    pub fn new(gpu: &Gpu, arena: &Arena, rows: usize) -> Result<Self> {
        let storage = |contents: &[u8]| buffer(gpu, contents, BufferUsages::STORAGE);
        let zeros = |count: usize| storage(&vec![0; 4 * count]);
        let digits = DIGITS.chunks_exact(ROW);
        let pixels: Vec<_> = digits.clone().flat_map(|row| &row[..ROW - 1]).map(|p| f32::from(*p) / 16.0).collect();
        let labels: Vec<_> = digits.map(|row| u32::from(row[ROW - 1])).collect();
        let (pixels, labels) = (storage(bytemuck::cast_slice(&pixels)), storage(bytemuck::cast_slice(&labels)));
        let batch = buffer(gpu, &[0; 8], BufferUsages::UNIFORM);
        let (order, outcomes) = (zeros(IMAGES), zeros(2 * IMAGES));
        // The inputs of each layer, last the logits; and the loss's slopes by them.
        let (values, deltas) = (WIDTHS.map(|width| zeros(rows * width)), WIDTHS.map(|width| zeros(rows * width)));

        let dispatch = |(entry, text): (&str, String), constants: &[(&str, f64)], bindings: &[_], invocations| {
            Dispatch::new(gpu, &batch, entry, text, constants, bindings, invocations)
        };
        let whole = Buffer::as_entire_buffer_binding;
        let (x, input) = (|l: usize| whole(&values[l]), ("INPUTS", WIDTHS[0] as f64));
        let gathered = [whole(&pixels), whole(&order), x(0)];
        let mut forward = vec![dispatch(shader!("gather"), &[input], &gathered, (WIDTHS[0], 0))];
        let mut backward = Vec::new();
        for l in 1..WIDTHS.len() {
            let (inputs, outputs) = (WIDTHS[l - 1], WIDTHS[l]);
            let sizes = [("INPUTS", inputs as f64), ("OUTPUTS", outputs as f64)];
            let relu = [sizes[0], sizes[1], ("RELU", f64::from(u8::from(l + 1 < WIDTHS.len())))];
            let (weight, bias) = (arena.tensor(&format!("layer{l}.weight"))?, arena.tensor(&format!("layer{l}.bias"))?);
            let applied = [x(l - 1), weight.params.binding(), bias.params.binding(), x(l)];
            forward.push(dispatch(shader!("forward"), &relu, &applied, (outputs, 0)));
            let (weight_gradient, bias_gradient) =
                (arena.gradient(&weight.spec.name)?, arena.gradient(&bias.spec.name)?);
            let delta = || whole(&deltas[l]);
            if l > 1 {
                let passed = [x(l - 1), weight.params.binding(), delta(), whole(&deltas[l - 1])];
                backward.push(dispatch(shader!("backward_input"), &sizes, &passed, (inputs, 0)));
            }
            let summed = [x(l - 1), delta(), weight_gradient.binding(), bias_gradient.binding()];
            backward.push(dispatch(shader!("backward_weights"), &sizes, &summed, (0, outputs * (inputs + 1))));
        }
        // From the last layer to the first.
        backward.reverse();
        let last = WIDTHS.len() - 1;
        let judged = [x(last), whole(&labels), whole(&order), whole(&deltas[last]), whole(&outcomes)];
        forward.push(dispatch(shader!("loss"), &[("OUTPUTS", WIDTHS[last] as f64)], &judged, (1, 0)));
        Ok(Self { gpu: gpu.clone(), forward, backward, batch, order, outcomes })
    }

    /// In which order the images come.
    pub fn set_order(&self, order: &[u32]) {
        self.gpu.queue().write_buffer(&self.order, 0, bytemuck::cast_slice(order));
    }

    /// The mini-batch of what is submitted next: the first image's place in the order, and how many.
    pub fn set_batch(&self, first: usize, rows: usize) {
        self.gpu.queue().write_buffer(&self.batch, 0, bytemuck::cast_slice(&[first as u32, rows as u32]));
    }

    pub fn record_forward(&self, encoder: &mut CommandEncoder, rows: usize) {
        record(encoder, &self.forward, rows);
    }

    /// Writes the arena's gradients.
    pub fn record_backward(&self, encoder: &mut CommandEncoder, rows: usize) {
        record(encoder, &self.backward, rows);
    }

    /// What became of the images, in their order. Waits for it.
    pub fn outcomes(&self) -> Result<Vec<Outcome>> {
        let (sender, receiver) = std::sync::mpsc::channel();
        DownloadBuffer::read_buffer(self.gpu.device(), self.gpu.queue(), &self.outcomes.slice(..), move |data| {
            // The receiver waits below.
            let _ = sender.send(data);
        });
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
        let words: Vec<f32> = bytemuck::pod_collect_to_vec(&receiver.recv()??[..]);
        Ok(words.chunks_exact(2).map(|pair| Outcome { loss: pair[0], correct: pair[1] != 0.0 }).collect())
    }
}

impl Dispatch {
    /// Bindings of group 1 are numbered in order.
    fn new(
        gpu: &Gpu,
        batch: &Buffer,
        entry: &str,
        text: String,
        constants: &[(&str, f64)],
        bindings: &[BufferBinding<'_>],
        invocations: (usize, usize),
    ) -> Self {
        let (device, label) = (gpu.device(), Some(entry));
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module: &module,
            entry_point: label,
            compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
            cache: None,
        });
        let groups = [&[batch.as_entire_buffer_binding()][..], bindings];
        let groups = [0, 1].map(|group| {
            let resources = groups[group].iter().cloned().map(wgpu::BindingResource::Buffer);
            let entry = |(binding, resource)| BindGroupEntry { binding, resource };
            let entries: Vec<_> = (0..).zip(resources).map(entry).collect();
            let layout = &pipeline.get_bind_group_layout(group as u32);
            device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries })
        });
        Self { pipeline, groups, invocations }
    }
}

fn buffer(gpu: &Gpu, contents: &[u8], usage: BufferUsages) -> Buffer {
    let usage = usage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    gpu.device().create_buffer_init(&BufferInitDescriptor { label: None, contents, usage })
}

fn record(encoder: &mut CommandEncoder, dispatches: &[Dispatch], rows: usize) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for Dispatch { pipeline, groups, invocations } in dispatches {
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &groups[0], &[]);
        pass.set_bind_group(1, &groups[1], &[]);
        let invocations = invocations.0 * rows + invocations.1;
        pass.dispatch_workgroups((invocations as u32).div_ceil(64), 1, 1);
    }
}
