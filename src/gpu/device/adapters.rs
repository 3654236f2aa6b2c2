//! The adapters of this machine.

use std::sync::{Mutex, PoisonError};

/// The adapters of this machine, the preferred first: discrete, integrated, virtual, other, and
/// those that run on the CPU last. `WGPU_BACKEND` narrows the backends, `WGPU_ADAPTER_NAME` the names
/// (any part, in any case).
pub async fn adapters() -> Vec<wgpu::Adapter> {
    let wanted = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let backends = wgpu::Backends::from_env().unwrap_or(wanted);
    let descriptor =
        wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle_from_env() };
    let mut adapters = {
        // Some loaders dislike being opened from two threads at once.
        static OPENING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
    };
    if let Ok(name) = std::env::var("WGPU_ADAPTER_NAME") {
        let name = name.to_lowercase();
        adapters.retain(|a| a.get_info().name.to_lowercase().contains(&name));
    }
    adapters.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// What to do where there is no adapter.
pub fn no_adapter_hint() -> String {
    let install = if cfg!(target_os = "linux") {
        "install your GPU's Vulkan driver, or the software one: apt install mesa-vulkan-drivers (Debian, Ubuntu)"
    } else if cfg!(target_os = "macos") {
        "Metal needs macOS 10.13 or later and a GPU that supports it"
    } else {
        "install your GPU's Vulkan or DirectX 12 driver"
    };
    match (std::env::var("WGPU_BACKEND"), std::env::var("WGPU_ADAPTER_NAME")) {
        (Err(_), Err(_)) => format!("none found; {install}"),
        _ => format!("none matches WGPU_BACKEND and WGPU_ADAPTER_NAME as set; unset them, or {install}"),
    }
}
