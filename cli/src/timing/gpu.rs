//! Steps on the GPU, by its own clock where it has one.

use std::time::{Duration, Instant};

use wgpu_optim::wgpu::{self, BufferUsages, CommandEncoder};
use wgpu_optim::{Arena, Gpu, Optimizer};

use super::{Case, Footprint, Subject, specs, steps_at_once, values};
use crate::error::{Error, Result};

/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct GpuSubject {
    clock: Clock,
    optimizer: Optimizer,
    stream: Stream,
    footprint: Footprint,
    recording: Vec<f64>,
}

impl GpuSubject {
    pub fn new(gpu: &Gpu, case: &Case) -> Result<Self> {
        let specs = specs(case.elements, case.tensors);
        let together = if case.own_buffers { 1 } else { specs.len() };
        let mut tensors = Vec::new();
        for (part, specs) in specs.chunks(together).enumerate() {
            let arena = Arena::for_config(gpu, &case.config, specs.to_vec())?;
            for (seed, spec) in (1 + part as u32..).zip(specs) {
                let len = spec.shape[0] as usize;
                arena.write_params(&spec.name, &values(len, seed))?;
                arena.write_gradient(&spec.name, &values(len, seed + 0x1000_0000))?;
            }
            tensors.extend_from_slice(arena.tensors());
        }
        let optimizer = Optimizer::new(gpu, &case.config, tensors)?;
        let footprint = Footprint::of(optimizer.plan(), case.elements);
        let stream = Stream::new(gpu, footprint)?;
        Ok(Self { clock: Clock::new(gpu), optimizer, stream, footprint, recording: Vec::new() })
    }

    /// `timestamp` or `host`.
    pub fn clock_name(&self) -> &'static str {
        if self.clock.stamps.is_some() { "timestamp" } else { "host" }
    }
}

impl Subject for GpuSubject {
    fn step(&mut self) -> Result<f64> {
        let (optimizer, recording) = (&mut self.optimizer, &mut self.recording);
        self.clock.time(steps_at_once(self.footprint.elements), &mut |encoder| {
            let start = Instant::now();
            optimizer.step(encoder)?;
            recording.push(1e6 * start.elapsed().as_secs_f64());
            Ok(())
        })
    }

    fn stream(&mut self) -> Result<f64> {
        self.clock.time(steps_at_once(self.footprint.elements), &mut |encoder| {
            self.stream.record(encoder);
            Ok(())
        })
    }

    fn recording(&self) -> &[f64] {
        &self.recording
    }

    fn bytes_moved(&self) -> u64 {
        self.optimizer.plan().bytes_moved()
    }
}

/// Times submits: by timestamps of empty passes around the work, else by the host from submit to the
/// end of the wait, recording apart.
#[derive(Debug)]
struct Clock {
    gpu: Gpu,
    stamps: Option<Stamps>,
}

#[derive(Debug)]
struct Stamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    mapped: wgpu::Buffer,
    /// Seconds of a tick.
    tick: f64,
}

impl Clock {
    fn new(gpu: &Gpu) -> Self {
        let mut clock = Self { gpu: gpu.clone(), stamps: None };
        if gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let buffer = |usage| buffer(gpu, 16, usage);
            clock.stamps = Some(Stamps {
                queries: gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
                mapped: buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
                tick: f64::from(gpu.queue().get_timestamp_period()) * 1e-9,
            });
        }
        clock
    }

    /// The seconds of a step, the mean over one submit of steps that `record` records one at a time.
    fn time(&mut self, steps: u32, record: &mut dyn FnMut(&mut CommandEncoder) -> Result<()>) -> Result<f64> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        if let Some(stamps) = &self.stamps {
            stamps.write(&mut encoder, 0);
        }
        (0..steps).try_for_each(|_| record(&mut encoder))?;
        if let Some(Stamps { queries, resolved, mapped, .. }) = &self.stamps {
            self.stamps.iter().for_each(|stamps| stamps.write(&mut encoder, 1));
            encoder.resolve_query_set(queries, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, mapped, 0, 16);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue().submit([commands]);
        wait(&self.gpu)?;
        let host = start.elapsed().as_secs_f64();
        let Some(stamps) = &self.stamps else { return Ok(host / f64::from(steps)) };
        match stamps.read(&self.gpu)? {
            // More than the host saw, or nothing at all: not a clock to go by.
            device if device > 0.0 && device <= host => Ok(device / f64::from(steps)),
            _ => {
                self.stamps = None;
                Ok(host / f64::from(steps))
            }
        }
    }
}

impl Stamps {
    /// A pass that does nothing but look at the clock.
    fn write(&self, encoder: &mut CommandEncoder, index: u32) {
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: (index == 0).then_some(0),
                end_of_pass_write_index: (index == 1).then_some(1),
            }),
        });
    }

    /// The seconds between both.
    fn read(&self, gpu: &Gpu) -> Result<f64> {
        self.mapped.map_async(wgpu::MapMode::Read, .., |_| ());
        wait(gpu)?;
        let ticks = {
            let view = self.mapped.get_mapped_range(..).map_err(|e| Error::failed(format!("the timestamps: {e}")))?;
            let ticks: Vec<u64> =
                view.chunks_exact(8).filter_map(|b| b.try_into().ok()).map(u64::from_le_bytes).collect();
            ticks[1].saturating_sub(ticks[0])
        };
        self.mapped.unmap();
        Ok(ticks as f64 * self.tick)
    }
}

fn wait(gpu: &Gpu) -> Result<()> {
    let waited = gpu.device().poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(PATIENCE) });
    waited.map(|_| ()).map_err(|_| Error::failed(format!("a step took longer than {} s", PATIENCE.as_secs())))
}

fn buffer(gpu: &Gpu, size: u64, usage: BufferUsages) -> wgpu::Buffer {
    let descriptor = wgpu::BufferDescriptor { label: Some("bench"), size, usage, mapped_at_creation: false };
    gpu.device().create_buffer(&descriptor)
}

#[allow(unsafe_code, reason = "the engine's kernels go without checks too")]
fn module(gpu: &Gpu) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks { bounds_checks: false, force_loop_bounding: false, ..Default::default() };
    let source = wgpu::include_wgsl!("../../shaders/stream.wgsl");
    // SAFETY: indices stay below the bindings' lengths, and loops advance.
    unsafe { gpu.device().create_shader_module_trusted(source, checks) }
}

/// Elements of a workgroup.
const BLOCK: usize = 4096;

/// The stream: one dispatch a pass, or as many as bindings of all elements take.
#[derive(Debug)]
struct Stream {
    passes: Vec<Dispatch>,
}

#[derive(Debug)]
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    workgroups: u32,
}

impl Stream {
    fn new(gpu: &Gpu, footprint: Footprint) -> Result<Self> {
        let module = &module(gpu);
        let longest = gpu.limits().binding.min(gpu.limits().buffer) / 4;
        let fitting = longest as usize / footprint.slots.max(1) / BLOCK * BLOCK;
        let part = fitting.min(BLOCK * gpu.device().limits().max_compute_workgroups_per_dimension as usize);
        let mut passes: [Vec<Dispatch>; 3] = Default::default();
        let mut left = footprint.elements;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        while left > 0 {
            // Whole vectors, as the kernel takes them.
            let elements = left.min(part);
            let words = |count: usize| buffer(gpu, 4 * count.next_multiple_of(4).max(4) as u64, usage);
            let (params, gradients, seen) = (words(elements), words(elements), words(1));
            // Bound even where there is none.
            let state = words(elements.next_multiple_of(4) * footprint.slots);
            // Memory that was never written may be one page of zeros again and again.
            let filled = values(elements.next_multiple_of(4), left as u32);
            gpu.write(&(&gradients).into(), &filled)?;
            let dispatch = |entry, buffers: &[(u32, &wgpu::Buffer)]| {
                Dispatch::new(gpu, module, entry, footprint.slots, buffers, elements.div_ceil(BLOCK) as u32)
            };
            let all = [(0, &params), (1, &gradients), (2, &state)];
            if footprint.scans {
                passes[0].push(dispatch("scan", &[(1, &gradients), (3, &seen)]));
            }
            if footprint.measures {
                passes[1].push(dispatch("measure", &[all.as_slice(), &[(3, &seen)]].concat()));
            }
            passes[2].push(dispatch("update", &all));
            left -= elements;
        }
        Ok(Self { passes: passes.into_iter().flatten().collect() })
    }

    fn record(&self, encoder: &mut CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for dispatch in &self.passes {
            pass.set_pipeline(&dispatch.pipeline);
            pass.set_bind_group(0, &dispatch.group, &[]);
            pass.dispatch_workgroups(dispatch.workgroups, 1, 1);
        }
    }
}

impl Dispatch {
    fn new(
        gpu: &Gpu,
        module: &wgpu::ShaderModule,
        entry: &str,
        slots: usize,
        buffers: &[(u32, &wgpu::Buffer)],
        workgroups: u32,
    ) -> Self {
        let entries: Vec<_> = buffers
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            .collect();
        let device = gpu.device();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("SLOTS", slots as f64), ("WORKGROUP", gpu.workgroup_size().into())],
                ..Default::default()
            },
            cache: None,
        });
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, group, workgroups }
    }
}
