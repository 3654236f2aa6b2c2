//! The library on the caller's own device, buffers and encoder: fits a cubic to the sine. A kernel of
//! the caller's writes the gradient, the optimizer's step follows in the same encoder, and one
//! submission holds a hundred of such pairs.
//!
//! `cargo run --release --example bring_your_own_device`

use wgpu_optim::rules::Adam;
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{Gpu, Optimizer, OptimizerConfig, Slice, Tensor};

/// The gradient of the mean squared error over 64 points, one invocation a point.
const KERNEL: &str = "
@group(0) @binding(0) var<storage, read> c: array<f32, 4>;
@group(0) @binding(1) var<storage, read_write> gradient: array<f32, 4>;

var<workgroup> slopes: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn backward(@builtin(local_invocation_index) i: u32) {
    let x = (f32(i) + 0.5) / 32.0 - 1.0;
    let powers = vec4<f32>(1.0, x, x * x, x * x * x);
    let residual = dot(vec4<f32>(c[0], c[1], c[2], c[3]), powers) - sin(3.14159265 * x);
    slopes[i] = 2.0 / 64.0 * residual * powers;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if i < half {
            slopes[i] += slopes[i + half];
        }
    }
    if i < 4u {
        gradient[i] = slopes[0][i];
    }
}";

/// Where the coefficients lie in a buffer that holds other things too.
const OFFSET: u64 = 256;

/// The caller's own device: any adapter, no feature, default limits.
pub async fn open() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    Ok(adapter.request_device(&wgpu::DeviceDescriptor::default()).await?)
}

/// The coefficients of 1, x, x² and x³ for sin(πx) in [-1, 1].
pub fn run(device: &wgpu::Device, queue: &wgpu::Queue) -> wgpu_optim::Result<Vec<f32>> {
    let buffer = |label, size, usage| {
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        device.create_buffer(&descriptor)
    };
    // COPY_SRC lets the library read parameters back; a step needs STORAGE alone.
    let params = buffer("my parameters", OFFSET + 16, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let gradients = buffer("my gradients", 16, BufferUsages::STORAGE);
    let coefficients = Slice::new(&params, OFFSET, 16);

    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("cubic"),
        source: wgpu::ShaderSource::Wgsl(KERNEL.into()),
    });
    let backward = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("backward"),
        layout: None,
        module: &module,
        entry_point: Some("backward"),
        compilation_options: Default::default(),
        cache: None,
    });
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("cubic"),
        layout: &backward.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(coefficients.binding()) },
            wgpu::BindGroupEntry { binding: 1, resource: gradients.as_entire_binding() },
        ],
    });

    // From here on the library: `Gpu::new` takes handles, and opens and configures nothing.
    let gpu = Gpu::new(device.clone(), queue.clone());
    let tensor = Tensor::new("coefficients", [4], coefficients).with_gradient(&gradients);
    let mut optimizer = Optimizer::new(&gpu, &OptimizerConfig::new(Adam { lr: 0.05, ..Adam::default() }), [tensor])?;
    for _ in 0..10 {
        let mut encoder = device.create_command_encoder(&Default::default());
        for _ in 0..100 {
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&backward);
                pass.set_bind_group(0, &bindings, &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
            optimizer.step(&mut encoder)?;
        }
        queue.submit([encoder.finish()]);
    }
    Ok(optimizer.params_blocking()?.remove(0))
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, queue) = pollster::block_on(open())?;
    let c = run(&device, &queue)?;
    println!("sin(πx) ≈ {:.4} + {:.4} x + {:.4} x² + {:.4} x³", c[0], c[1], c[2], c[3]);
    Ok(())
}
