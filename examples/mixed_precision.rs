//! Half the memory and less: parameters and gradients of 16 bits that the caller's own kernel reads and
//! writes, a dynamic loss scale that the GPU keeps, and state in 8 bits.
//!
//! `cargo run --release --example mixed_precision`

use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{
    Arena, DynamicScale, Format, Gpu, LossScale, Optimizer, OptimizerConfig, Result, Rounding, StateFormat,
    StorageConfig, TensorSpec, wgpu, wgsl_conversions,
};

const ELEMENTS: u64 = 16_384;
const STEPS: u64 = 400;

/// The backward pass of Σ (wᵢ − sin i)² / 2: g = scale · (w − sin i). Four elements an invocation, so that
/// two words of 16-bit numbers are read and written whole.
const BACKWARD: &str = "
@group(0) @binding(0) var<storage, read> w: array<Stored>;
@group(0) @binding(1) var<storage, read_write> g: array<Stored>;
@group(0) @binding(2) var<uniform> loss_scale: f32;

@compute @workgroup_size(64)
fn backward(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&g) {
        return;
    }
    let i = vec4<f32>(4u * id.x + vec4<u32>(0u, 1u, 2u, 3u));
    g[id.x] = stored(loss_scale * (loaded(w[id.x]) - sin(i)));
}
";

/// How the kernel's `Stored` becomes four numbers and back. The library has the conversions.
fn access(format: Format) -> String {
    let (stored, load, store) = match format {
        Format::F32 => ("vec4<f32>", "words".to_owned(), "x".to_owned()),
        half => {
            let name = half.name();
            (
                "vec2<u32>",
                format!("bitcast<vec4<f32>>(widen_{name}(words))"),
                format!("join_halves(nearest_{name}(bitcast<vec4<u32>>(x)))"),
            )
        }
    };
    format!(
        "{}
        alias Stored = {stored};
        fn loaded(words: Stored) -> vec4<f32> {{ return {load}; }}
        fn stored(x: vec4<f32>) -> Stored {{ return {store}; }}",
        wgsl_conversions(format)
    )
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Root mean square of wᵢ − sin i.
    pub error: f64,
    /// Of parameters, gradients and state.
    pub bytes_a_parameter: f64,
    /// Steps whose gradients overflowed and were skipped.
    pub skipped: u64,
}

/// Fits the sine with parameters and gradients stored alike, as that says.
pub fn run(gpu: &Gpu, storage: StorageConfig) -> Result<Outcome> {
    let format = storage.params;
    let mut config = OptimizerConfig::new(AdamW { lr: 0.05, weight_decay: 0.0, ..AdamW::default() })
        .schedule(Cosine { total_steps: STEPS, min_lr: 1e-4 })
        .storage(storage);
    if format == Format::F16 {
        // Too large on purpose: the first steps overflow f16, are skipped, and bring it down.
        config.gradient.loss_scale = Some(LossScale::Dynamic(DynamicScale { init: 1e7, ..DynamicScale::default() }));
    }
    let arena = Arena::for_config(gpu, &config, [TensorSpec::new("w", [ELEMENTS])])?;
    let mut optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;

    let device = gpu.device();
    let source = format!("{BACKWARD}{}", access(format));
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("backward"),
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("backward"),
        layout: None,
        module: &module,
        entry_point: Some("backward"),
        compilation_options: Default::default(),
        cache: None,
    });
    // Read by the kernel on the GPU: no step waits to know it.
    let scale = optimizer.loss_scale();
    let bound = [arena.params("w")?.binding(), arena.gradient("w")?.binding(), scale.binding()];
    let entries: Vec<_> = (0..)
        .zip(bound)
        .map(|(binding, bound)| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(bound) })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    let group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });

    for _ in 0..STEPS {
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups((ELEMENTS / 4).div_ceil(64) as u32, 1, 1);
        }
        optimizer.step(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }

    let w = optimizer.params_blocking()?.remove(0);
    let squares = (0..).zip(&w).map(|(i, w)| (f64::from(*w) - f64::from(i).sin()).powi(2));
    Ok(Outcome {
        error: (squares.sum::<f64>() / w.len() as f64).sqrt(),
        bytes_a_parameter: optimizer.plan().bytes_resident() as f64 / w.len() as f64,
        skipped: optimizer.state_blocking()?.steps_skipped,
    })
}

/// The storages that are compared.
pub fn storages() -> [(&'static str, StorageConfig); 4] {
    let alike = |format, state| StorageConfig { params: format, gradients: format, state, ..StorageConfig::default() };
    let stochastic = |state| StorageConfig { rounding: Rounding::Stochastic, ..alike(Format::Bf16, state) };
    [
        ("f32", StorageConfig::default()),
        ("f16, f32 master, loss scale", alike(Format::F16, StateFormat::F32)),
        ("bf16 rounded stochastically", stochastic(StateFormat::Bf16)),
        ("the same with state in 8 bits", stochastic(StateFormat::Q8)),
    ]
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> Result<()> {
    let gpu = Gpu::headless()?;
    println!("{:<30}  {:>9}  {:>7}  {:>7}", "storage", "bytes", "error", "skipped");
    for (name, storage) in storages() {
        let Outcome { error, bytes_a_parameter, skipped } = run(&gpu, storage)?;
        println!("{name:<30}  {bytes_a_parameter:>9.2}  {error:>7.4}  {skipped:>7}");
    }
    Ok(())
}
