use serde_json::{Value, json};
use wgpu_optim::Gpu;
use wgpu_optim::gpu::{adapters, no_adapter_hint};
use wgpu_optim::wgpu::{Adapter, DeviceType, Features};

use crate::error::{Error, Result};
use crate::{output, style};

/// List the GPU adapters, their limits, and what each enables
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim devices
  wgpu-optim devices --json
  WGPU_BACKEND=vulkan wgpu-optim devices       only that graphics API
  WGPU_ADAPTER_NAME=llvmpipe wgpu-optim train  picks an adapter by a part of its name")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The features that matter here, and what they are good for.
const FEATURES: [(&str, Features, &str); 5] = [
    ("BUFFER_BINDING_ARRAY", Gpu::bundle_features(), "tensors in buffers of their own share a dispatch, up to 1,024"),
    ("TIMESTAMP_QUERY", Features::TIMESTAMP_QUERY, "passes are timed by the GPU's own clock"),
    ("SHADER_F16", Features::SHADER_F16, "kernels of yours may compute in f16; this library only stores in it"),
    ("SUBGROUP", Features::SUBGROUP, "kernels may add up across a subgroup without workgroup memory"),
    ("PIPELINE_CACHE", Features::PIPELINE_CACHE, "compiled kernels can be kept from one run to the next"),
];

pub fn run(args: &Args) -> Result<()> {
    let adapters = pollster::block_on(adapters());
    if adapters.is_empty() {
        return Err(Error::failed(format!("no GPU adapter: {}", no_adapter_hint())));
    }
    if args.json {
        return output::print_json(&adapters.iter().enumerate().map(|(i, a)| to_json(a, i == 0)).collect());
    }
    let texts: Vec<_> = adapters.iter().enumerate().map(|(i, a)| describe(a, i == 0)).collect();
    output::print(&texts.join("\n"))
}

/// The limits that matter, and what they decide.
fn limits(adapter: &Adapter) -> [(&'static str, u64, String); 4] {
    let limits = adapter.limits();
    let binding = limits.max_storage_buffer_binding_size;
    let groups = u64::from(limits.max_compute_workgroups_per_dimension);
    let alignment = limits.min_storage_buffer_offset_alignment;
    [
        (
            "max_storage_buffer_binding_size",
            binding,
            format!(
                "{}: f32 tensors past {} million elements are updated in parts",
                size(binding),
                binding / 4 / 1_000_000
            ),
        ),
        (
            "max_buffer_size",
            limits.max_buffer_size,
            format!("{}: the longest that a model's segment can be", size(limits.max_buffer_size)),
        ),
        (
            "max_compute_workgroups_per_dimension",
            groups,
            format!("dispatches past {groups} blocks of 4,096 elements go two-dimensional"),
        ),
        (
            "min_storage_buffer_offset_alignment",
            alignment.into(),
            format!("bytes; slices bound at multiples of {alignment} need no rounding down"),
        ),
    ]
}

fn describe(adapter: &Adapter, first: bool) -> String {
    let info = adapter.get_info();
    let mut lines = vec![style::heading(&info.name)];
    if first {
        lines[0] += "  (opened unless another is chosen)";
    }
    let driver = format!("{} {}", info.driver, info.driver_info);
    lines.push(format!("  {}, {}, driver {}", info.backend, kind(info.device_type), driver.trim()));
    lines.push("  limits".to_owned());
    for (name, value, meaning) in limits(adapter) {
        lines.push(format!("    {name:<37} {value:>11}  {}", style::faint(&meaning)));
    }
    lines.push("  features".to_owned());
    for (name, feature, meaning) in FEATURES {
        let has = if adapter.features().contains(feature) { "yes" } else { "no" };
        lines.push(format!("    {name:<37} {has:>11}  {}", style::faint(meaning)));
    }
    lines.join("\n") + "\n"
}

fn to_json(adapter: &Adapter, first: bool) -> Value {
    let info = adapter.get_info();
    let limits: serde_json::Map<_, _> =
        limits(adapter).into_iter().map(|(name, value, _)| (name.to_owned(), json!(value))).collect();
    let features: serde_json::Map<_, _> = FEATURES
        .into_iter()
        .map(|(name, feature, _)| (name.to_lowercase(), json!(adapter.features().contains(feature))))
        .collect();
    json!({
        "name": info.name,
        "backend": info.backend.to_string(),
        "type": kind(info.device_type),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "opened": first,
        "limits": limits,
        "features": features,
    })
}

fn kind(device: DeviceType) -> &'static str {
    match device {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software on the CPU",
        DeviceType::Other => "unknown kind",
    }
}

fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib >= 10 << 10 { format!("{} GiB", mib >> 10) } else { format!("{mib} MiB") }
}
