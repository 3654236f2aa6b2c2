//! Waits that end, and what they say then.

mod support;

use std::time::{Duration, Instant};

use support::model::{Model, Place, buffer};
use support::{encoder, own_gpu};
use wgpu_optim::rules::AdamW;
use wgpu_optim::{Error, Gpu, OptimizerConfig, TensorSpec, wgpu};

/// Long work of the caller's own. Loops are short, since some drivers end one after 65,535 rounds.
const LONG: &str = "
@group(0) @binding(0) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(64)
fn work(@builtin(global_invocation_id) id: vec3<u32>) {
    var x = id.x;
    for (var i = 0u; i < 1000u; i += 1u) {
        for (var j = 0u; j < 1000u; j += 1u) {
            x = x * 1664525u + 1013904223u + j;
        }
    }
    sums[id.x % 64u] = x;
}
";

struct Work {
    gpu: Gpu,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl Work {
    fn new(gpu: &Gpu) -> Self {
        let device = gpu.device();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(LONG.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("work"),
            compilation_options: Default::default(),
            cache: None,
        });
        let sums = buffer(gpu, 256);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: sums.as_entire_binding() }],
        });
        Self { gpu: gpu.clone(), pipeline, group }
    }

    /// Submits so many pieces of work at once.
    fn submit(&self, pieces: u32) {
        support::submit(&self.gpu, |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.group, &[]);
            (0..pieces).for_each(|_| pass.dispatch_workgroups(4, 1, 1));
        });
    }

    /// Pieces that take about so long here.
    fn pieces(&self, time: Duration) -> u32 {
        let mut took = Duration::ZERO;
        // The first may take longer.
        for _ in 0..2 {
            let since = Instant::now();
            self.submit(1);
            self.gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
            took = since.elapsed();
        }
        (time.as_nanos() / took.as_nanos().max(1)).clamp(4, 1000) as u32
    }
}

fn model(gpu: &Gpu) -> Model {
    let config = OptimizerConfig::new(AdamW::default());
    Model::new(gpu, &config, &[TensorSpec::new("w", [5])], &[vec![1.0; 5]], Place::Arena)
}

#[test]
fn a_wait_behind_the_callers_own_work_says_so_and_can_be_longer() {
    let gpu = own_gpu();
    let mut model = model(&gpu);
    model.step(&[vec![1.0; 5]]);
    let before = model.params();
    let work = Work::new(&gpu);
    let pieces = work.pieces(Duration::from_secs(1));
    let timeout = Duration::from_millis(20);
    type Call = fn(&mut Model) -> wgpu_optim::Result<()>;
    let calls: [Call; 3] = [
        |model| model.optimizer.params_blocking().map(drop),
        |model| model.optimizer.wait_for_report().map(drop),
        |model| model.optimizer.checkpoint_blocking().map(drop),
    ];
    for call in calls {
        gpu.set_timeout(timeout);
        assert_eq!(gpu.timeout(), timeout);
        work.submit(pieces);
        let since = Instant::now();
        let error = call(&mut model).unwrap_err();
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        assert!(matches!(error, Error::Timeout { busy: true, after, .. } if after == timeout), "{error:?}");
        let text = error.to_string();
        assert!(["20ms", "still at work", "Gpu::set_timeout"].iter().all(|part| text.contains(part)), "{text}");
        // For as long as it takes.
        gpu.set_timeout(Duration::MAX);
        assert_eq!(gpu.timeout(), Duration::MAX);
        call(&mut model).unwrap();
    }
    assert_eq!(model.params(), before);
}

#[test]
fn a_wait_for_what_nobody_submitted_says_so() {
    let gpu = own_gpu();
    let model = model(&gpu);
    gpu.set_timeout(Duration::from_millis(20));
    let mut kept = encoder(&gpu);
    let pending = model.optimizer.record_checkpoint(&mut kept).unwrap();
    let since = Instant::now();
    let error = pending.wait().unwrap_err();
    assert!(since.elapsed() >= Duration::from_millis(20), "{:?}", since.elapsed());
    assert!(matches!(error, Error::Timeout { busy: false, .. }), "{error:?}");
    assert!(error.to_string().contains("not submitted"), "{error}");
}
