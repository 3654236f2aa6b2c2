//! What the benches share: sizes, inputs, clocks, and streams to compare with.
//!
//! A *stream* moves the bytes that AdamW moves and does nothing with them. It is measured beside the
//! engine in the same run, since absolute figures depend on what else the machine does.
#![allow(dead_code, reason = "each bench uses its part")]

#[path = "../../tests/support/mod.rs"]
mod tests;

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use rayon::prelude::*;
pub use tests::{Numbers, encoder};
use wgpu_optim::rules::AdamW;
use wgpu_optim::{Arena, Gpu, OptimizerConfig, TensorSpec, wgpu};
use wgpu_optim::{GradientConfig, OnNonfinite};

/// Whether each bench only runs once, as under `cargo test`.
pub fn test_mode() -> bool {
    !std::env::args().any(|a| a == "--bench")
}

/// Few long samples: a step of a large model takes a tenth of a second and more.
pub fn criterion() -> Criterion {
    Criterion::default().sample_size(15).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3))
}

/// Parameters of a model; only the small ones in test mode.
pub fn sizes() -> &'static [usize] {
    let all = &[1 << 10, 1 << 16, 1 << 20, 1 << 24];
    if test_mode() { &all[..2] } else { all }
}

/// The configurations that are measured: by name, AdamW with them, and whether they scan gradients.
pub fn configs() -> [(&'static str, OptimizerConfig, bool); 2] {
    let propagate = GradientConfig { on_nonfinite: OnNonfinite::Propagate, ..GradientConfig::default() };
    let adamw = || OptimizerConfig::new(AdamW::default());
    [("default", adamw(), true), ("propagate", adamw().gradient(propagate), false)]
}

/// The device of the tests, named once.
pub fn gpu() -> Gpu {
    let gpu = Gpu::headless().unwrap_or_else(|e| panic!("benches of the GPU need an adapter: {e}"));
    let info = gpu.device().adapter_info();
    eprintln!("adapter: {} ({:?}), driver {} {}", info.name, info.backend, info.driver, info.driver_info);
    gpu
}

/// `count` tensors that share `elements` as evenly as can be.
pub fn specs(elements: usize, count: usize) -> Vec<TensorSpec> {
    let len = |i: usize| (elements / count + usize::from(i < elements % count)) as u64;
    (0..count).map(|i| TensorSpec::new(format!("tensor{i}"), [len(i)])).collect()
}

/// An arena with parameters and gradients of tensors that share `elements`.
pub fn arena(gpu: &Gpu, elements: usize, count: usize) -> Arena {
    let specs = specs(elements, count);
    let mut numbers = Numbers::new(1);
    let mut values = || -> Vec<_> { specs.iter().map(|s| numbers.take(s.shape[0] as usize)).collect() };
    let (params, gradients) = (values(), values());
    let arena = tests::arena(gpu, &specs, &params);
    for (spec, gradient) in specs.iter().zip(&gradients) {
        arena.write_gradient(&spec.name, gradient).unwrap();
    }
    arena
}

/// A clock for work on the GPU: the host's, from submit to the end of the wait, without the
/// recording. Submits hold several steps while steps are short.
pub struct GpuClock<'a> {
    gpu: &'a Gpu,
    steps: u64,
}

impl<'a> GpuClock<'a> {
    pub fn new(gpu: &'a Gpu, elements: usize) -> Self {
        Self { gpu, steps: ((1 << 22) / elements as u64).clamp(1, 32) }
    }

    /// The time of one step, the mean over one submit of steps that `record` records one at a time.
    pub fn step(&self, record: &mut dyn FnMut(&mut wgpu::CommandEncoder)) -> Duration {
        let mut encoder = encoder(self.gpu);
        (0..self.steps).for_each(|_| record(&mut encoder));
        let commands = encoder.finish();
        let start = Instant::now();
        self.gpu.queue().submit([commands]);
        wait(self.gpu);
        start.elapsed() / self.steps as u32
    }
}

/// The time of one step on the CPU, the mean over some while steps are short.
pub fn cpu_step(elements: usize, step: &mut dyn FnMut()) -> Duration {
    let steps = ((1 << 22) / elements as u64).clamp(1, 32);
    let start = Instant::now();
    (0..steps).for_each(|_| step());
    start.elapsed() / steps as u32
}

/// Measures `engine` and takes turns with `stream`, so that whatever else the machine does meets both
/// alike. Criterion sees the engine's time; the shares that the stream's time is of it are printed.
pub fn beside(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    bytes: u64,
    mut engine: impl FnMut() -> Duration,
    mut stream: impl FnMut() -> Duration,
) {
    let mut pairs: Vec<(Duration, Duration)> = Vec::new();
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let measured: Vec<_> = (0..iterations).map(|_| (engine(), stream())).collect();
            pairs.extend(&measured);
            measured.iter().map(|(engine, _)| *engine).sum()
        });
    });
    if test_mode() || pairs.is_empty() {
        return;
    }
    let sorted = |values: &mut dyn Iterator<Item = f64>| {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let rate = |time: &Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    let share = sorted(&mut pairs.iter().map(|(engine, stream)| stream.as_secs_f64() / engine.as_secs_f64()));
    let engine = sorted(&mut pairs.iter().map(|(engine, _)| rate(engine)));
    let stream = sorted(&mut pairs.iter().map(|(_, stream)| rate(stream)));
    let at = |values: &[f64], quarter: usize| values[(values.len() - 1) * quarter / 4];
    println!(
        "{:24}{:.3} of the stream (quartiles {:.3} to {:.3}); {:.3} of {:.3} GB/s; {} pairs\n",
        "",
        at(&share, 2),
        at(&share, 1),
        at(&share, 3),
        at(&engine, 2),
        at(&stream, 2),
        pairs.len()
    );
}

/// Waits until the device is idle.
pub fn wait(gpu: &Gpu) {
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
}

/// The stream on the GPU: one dispatch where the engine has one.
pub struct GpuStream {
    update: Kernel,
    scan: Kernel,
    workgroups: u32,
}

struct Kernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl GpuStream {
    pub fn new(gpu: &Gpu, elements: usize) -> Self {
        let checks =
            wgpu::ShaderRuntimeChecks { bounds_checks: false, force_loop_bounding: false, ..Default::default() };
        // SAFETY: indices stay below the bindings' lengths, and loops advance; the engine's kernels go
        // without checks too.
        let module = unsafe {
            gpu.device().create_shader_module_trusted(wgpu::include_wgsl!("../../cli/shaders/stream.wgsl"), checks)
        };
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = |words: usize| {
            let size = words as u64 * 4;
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            gpu.device().create_buffer(&descriptor)
        };
        let (params, gradients, state, seen) = (buffer(elements), buffer(elements), buffer(2 * elements), buffer(1));
        // Memory that was never written may be one page of zeros again and again.
        gpu.write(&(&gradients).into(), &Numbers::new(2).take(elements)).unwrap();
        let kernel = |entry, buffers: &[(u32, &wgpu::Buffer)]| Kernel::new(gpu, &module, entry, buffers);
        Self {
            update: kernel("update", &[(0, &params), (1, &gradients), (2, &state)]),
            scan: kernel("scan", &[(1, &gradients), (3, &seen)]),
            workgroups: elements.div_ceil(4096) as u32,
        }
    }

    pub fn update(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.update.dispatch(pass, self.workgroups);
    }

    pub fn scan(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.scan.dispatch(pass, self.workgroups);
    }
}

impl Kernel {
    fn new(gpu: &Gpu, module: &wgpu::ShaderModule, entry: &str, buffers: &[(u32, &wgpu::Buffer)]) -> Self {
        let pipeline = gpu.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("SLOTS", 2.0), ("WORKGROUP", gpu.workgroup_size().into())],
                ..Default::default()
            },
            cache: None,
        });
        let entries: Vec<_> = buffers
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            .collect();
        let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, group }
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, workgroups: u32) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(workgroups, 1, 1);
    }
}

/// The stream on the CPU: the same slices in tasks of the engine's size, on all cores.
pub struct CpuStream {
    params: Vec<u32>,
    gradients: Vec<u32>,
    slots: [Vec<u32>; 2],
}

const TASK: usize = 1 << 15;

impl CpuStream {
    pub fn new(elements: usize) -> Self {
        let words = || Numbers::new(3).take(elements).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        Self { params: words(), gradients: words(), slots: [words(), words()] }
    }

    pub fn update(&mut self) {
        let [first, second] = &mut self.slots;
        let slots = first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK));
        let tasks = self.params.par_chunks_mut(TASK).zip(self.gradients.par_chunks(TASK)).zip(slots);
        tasks.for_each(|((params, gradients), (first, second))| {
            for (((p, g), m), v) in params.iter_mut().zip(gradients).zip(first).zip(second) {
                *p ^= g;
                *m ^= g;
                *v ^= g;
            }
        });
    }

    pub fn scan(&self) -> u32 {
        let parts = self.gradients.par_chunks(TASK).map(|chunk| chunk.iter().fold(0, |bits, g| bits ^ g));
        parts.reduce(|| 0, |a, b| a ^ b)
    }
}
