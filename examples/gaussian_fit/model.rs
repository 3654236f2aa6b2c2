//! The Gaussians on the GPU: parameters, kernels, optimizer.

use wgpu_optim::rules::Adam;
use wgpu_optim::wgpu::util::{BufferInitDescriptor, DeviceExt, DownloadBuffer};
use wgpu_optim::wgpu::{self, BufferUsages, Device, ShaderModule};
use wgpu_optim::{Arena, Gpu, Group, Optimizer, OptimizerConfig, Slice, TensorSpec};

use super::{Picture, Result};

/// Each part of a Gaussian and how many values it has. A part is a tensor.
pub const PARTS: [(&str, usize); 3] = [("position", 2), ("shape", 3), ("colour", 3)];

/// The parameters in the order of [`PARTS`].
pub type Params = [Vec<f32>; 3];

pub struct Model {
    gpu: Gpu,
    arena: Arena,
    optimizer: Optimizer,
    kernels: Kernels,
}

/// What a step runs before the optimizer's, bound to the arena of the moment.
struct Kernels {
    bin: Dispatch,
    render: Dispatch,
    backward: Dispatch,
    residual: Slice,
}

impl Model {
    pub fn new(gpu: &Gpu, goal: &Picture, params: &Params) -> Result<Self> {
        let arena = arena(gpu, params[0].len() / 2)?;
        for ((name, _), values) in PARTS.iter().zip(params) {
            arena.write_params(name, values)?;
        }
        // Positions are in pixels, so their rate is larger.
        let config = OptimizerConfig::new(Adam { lr: 0.01, ..Adam::default() })
            .group(Group::matching("position").set("lr", 0.2))
            .group(Group::matching("shape").set("lr", 0.04));
        let optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;
        Ok(Self { kernels: Kernels::new(gpu, goal, &arena), gpu: gpu.clone(), arena, optimizer })
    }

    /// Goes on with those Gaussians, their state included, and new ones after them.
    pub fn resize(&mut self, goal: &Picture, kept: &[u32], new: &Params) -> Result<()> {
        let added = new[0].len() / 2;
        let arena = arena(&self.gpu, kept.len() + added)?;
        let rows: Vec<_> = kept.iter().map(|row| Some(*row)).chain(std::iter::repeat_n(None, added)).collect();
        for ((tensor, values), (_, width)) in arena.tensors().iter().zip(new).zip(PARTS) {
            self.optimizer.set_rows(tensor.clone(), &rows)?;
            let bytes = 4 * (kept.len() * width) as u64;
            let tail = Slice::new(&tensor.params.buffer, tensor.params.offset + bytes, tensor.params.size - bytes);
            self.gpu.write(&tail, values)?;
        }
        // Gradients lie in the new arena too: `set_rows` takes the whole tensor.
        self.kernels = Kernels::new(&self.gpu, goal, &arena);
        self.arena = arena;
        Ok(())
    }

    pub fn gaussians(&self) -> usize {
        self.arena.tensors()[0].spec.shape[0] as usize
    }

    /// Forward, backward and update in one encoder.
    pub fn step(&mut self) -> Result<()> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        let Kernels { bin, render, backward, .. } = &self.kernels;
        record(&mut encoder, &[bin, render, backward]);
        self.optimizer.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// Three values a pixel, less what they should be.
    pub fn residual(&self) -> Result<Vec<f32>> {
        self.read(&[&self.kernels.bin, &self.kernels.render], &self.kernels.residual)
    }

    /// The gradients of the mean squared residual, in the order of [`PARTS`].
    #[allow(dead_code, reason = "for the test of the kernels")]
    pub fn gradients(&self) -> Result<Vec<Vec<f32>>> {
        let Kernels { bin, render, backward, .. } = &self.kernels;
        let slices = PARTS.map(|(name, _)| self.arena.gradient(name));
        slices.into_iter().map(|slice| self.read(&[bin, render, backward], slice?)).collect()
    }

    pub fn params(&self) -> Result<Params> {
        Ok(self.optimizer.params_blocking()?.try_into().map_err(|_| "not three parts")?)
    }

    fn read(&self, dispatches: &[&Dispatch], slice: &Slice) -> Result<Vec<f32>> {
        let (device, queue) = (self.gpu.device(), self.gpu.queue());
        let mut encoder = device.create_command_encoder(&Default::default());
        record(&mut encoder, dispatches);
        queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        let range = slice.offset..slice.offset + slice.size;
        DownloadBuffer::read_buffer(device, queue, &slice.buffer.slice(range), move |data| {
            // The receiver waits below.
            let _ = sender.send(data);
        });
        device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(bytemuck::pod_collect_to_vec(&receiver.recv()??[..]))
    }
}

fn arena(gpu: &Gpu, count: usize) -> Result<Arena> {
    Ok(Arena::new(gpu, PARTS.map(|(name, width)| TensorSpec::new(name, [count as u64, width as u64])))?)
}

impl Kernels {
    fn new(gpu: &Gpu, goal: &Picture, arena: &Arena) -> Self {
        let device = gpu.device();
        let count = arena.tensors()[0].spec.shape[0] as usize;
        let (across, down) = (goal.width as u32 / 8, goal.height as u32 / 8);
        let storage = |label, values: &[f32]| {
            let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
            let contents = bytemuck::cast_slice(values);
            Slice::from(&device.create_buffer_init(&BufferInitDescriptor { label: Some(label), contents, usage }))
        };
        let target = storage("goal", &goal.rgb);
        let residual = storage("residual", &vec![0.0; goal.rgb.len()]);
        let bins = storage("bins", &vec![0.0; (across * down) as usize * (count + 1)]);
        let params = arena.tensors().iter().map(|t| &t.params).collect::<Vec<_>>();
        let gradients = arena.tensors().iter().filter_map(|t| t.gradient.as_ref()).collect::<Vec<_>>();

        let module = device.create_shader_module(wgpu::include_wgsl!("gaussian.wgsl"));
        let sizes = [("WIDTH", goal.width as f64), ("HEIGHT", goal.height as f64), ("COUNT", count as f64)];
        let kernel =
            |name, groups: &[&[(u32, &Slice)]], size| Dispatch::new(device, &module, name, &sizes, groups, size);
        let read = [(0, params[0]), (1, params[1]), (2, params[2])];
        let write = [(0, gradients[0]), (1, gradients[1]), (2, gradients[2])];
        let picture = [(0, &target), (1, &residual), (2, &bins)];
        Self {
            bin: kernel("bin", &[&read[..2], &picture[2..]], [(across * down).div_ceil(64), 1]),
            render: kernel("render", &[&read, &picture], [across, down]),
            backward: kernel("backward", &[&read, &picture[1..2], &write], [count as u32, 1]),
            residual,
        }
    }
}

/// A kernel with what it binds.
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroup>,
    workgroups: [u32; 2],
}

impl Dispatch {
    /// Bindings by number, group by group: those that the kernel's text uses.
    fn new(
        device: &Device,
        module: &ShaderModule,
        entry_point: &str,
        constants: &[(&str, f64)],
        groups: &[&[(u32, &Slice)]],
        workgroups: [u32; 2],
    ) -> Self {
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry_point),
            layout: None,
            module,
            entry_point: Some(entry_point),
            compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
            cache: None,
        });
        let group = |(index, bindings): (u32, &&[(u32, &Slice)])| {
            let mut entries = Vec::new();
            for (binding, slice) in *bindings {
                let resource = wgpu::BindingResource::Buffer(slice.binding());
                entries.push(wgpu::BindGroupEntry { binding: *binding, resource });
            }
            let layout = &pipeline.get_bind_group_layout(index);
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(entry_point), layout, entries: &entries })
        };
        let groups = (0..).zip(groups).map(group).collect();
        Self { pipeline, groups, workgroups }
    }
}

fn record(encoder: &mut wgpu::CommandEncoder, dispatches: &[&Dispatch]) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for Dispatch { pipeline, groups, workgroups: [x, y] } in dispatches {
        pass.set_pipeline(pipeline);
        for (index, group) in (0..).zip(groups) {
            pass.set_bind_group(index, group, &[]);
        }
        pass.dispatch_workgroups(*x, *y, 1);
    }
}
