//! What it takes to run kernels of one's own: pipelines, bind groups, buffers and a readback, all of wgpu.

use std::error::Error;

use wgpu_optim::wgpu::util::{BufferInitDescriptor, DeviceExt, DownloadBuffer};
use wgpu_optim::wgpu::{self, BindGroup, BufferUsages, CommandEncoder, ComputePipeline, ShaderModule};
use wgpu_optim::{Gpu, Slice};

/// A kernel with what it binds.
pub struct Kernel {
    pipeline: ComputePipeline,
    groups: Vec<BindGroup>,
    workgroups: [u32; 2],
}

impl Kernel {
    /// Bindings by number, group by group: those that the kernel's text uses.
    pub fn new(
        gpu: &Gpu,
        module: &ShaderModule,
        entry_point: &str,
        constants: &[(&str, f64)],
        groups: &[&[(u32, &Slice)]],
        workgroups: [u32; 2],
    ) -> Self {
        let label = Some(entry_point);
        let pipeline = gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: None,
            module,
            entry_point: label,
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
            gpu.device().create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries })
        };
        let groups = (0..).zip(groups).map(group).collect();
        Self { pipeline, groups, workgroups }
    }
}

/// Records kernels one after the other.
pub fn record<'a>(encoder: &mut CommandEncoder, kernels: impl IntoIterator<Item = &'a Kernel>) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for Kernel { pipeline, groups, workgroups: [x, y] } in kernels {
        pass.set_pipeline(pipeline);
        for (index, group) in (0..).zip(groups) {
            pass.set_bind_group(index, group, &[]);
        }
        pass.dispatch_workgroups(*x, *y, 1);
    }
}

/// A buffer with that in it, for kernels and copies.
pub fn buffer<T: bytemuck::NoUninit>(gpu: &Gpu, label: &str, values: &[T], usage: BufferUsages) -> Slice {
    let usage = usage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let contents = bytemuck::cast_slice(values);
    Slice::from(&gpu.device().create_buffer_init(&BufferInitDescriptor { label: Some(label), contents, usage }))
}

/// What is in the slice once all that was submitted is done. Waits for it.
pub fn read(gpu: &Gpu, slice: &Slice) -> Result<Vec<f32>, Box<dyn Error>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let range = slice.offset..slice.offset + slice.size;
    DownloadBuffer::read_buffer(gpu.device(), gpu.queue(), &slice.buffer.slice(range), move |data| {
        // The receiver waits below.
        let _ = sender.send(data);
    });
    gpu.device().poll(wgpu::PollType::wait_indefinitely())?;
    Ok(bytemuck::pod_collect_to_vec(&receiver.recv()??[..]))
}
