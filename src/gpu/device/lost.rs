//! Whether the device is lost. After a loss most calls on a device seem to succeed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::context::Gpu;
use crate::error::{Error, Result};

/// Why the device is lost, once it is.
#[derive(Debug, Clone, Default)]
pub struct LostFlag(Arc<OnceLock<String>>);

impl LostFlag {
    /// The first reason stays.
    pub fn set(&self, reason: impl Into<String>) {
        let _ = self.0.set(reason.into());
    }
}

/// The flag, and a way to find out where nobody sets it: on a device of the caller's, the callback is the caller's.
#[derive(Debug)]
pub struct Lost {
    flag: LostFlag,
    /// Nothing ever uses this buffer, so a device maps it unless it is lost. `None` where it could not be made.
    probe: Option<Mutex<wgpu::Buffer>>,
}

impl Lost {
    pub fn new(flag: LostFlag, device: &wgpu::Device) -> Self {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some("probe"), size: 4, usage, mapped_at_creation: false };
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = device.create_buffer(&descriptor);
        let errors = pollster::block_on(async { [validation.pop().await, memory.pop().await] });
        let probe = errors.into_iter().flatten().next().is_none().then(|| Mutex::new(buffer));
        Self { flag, probe }
    }

    /// For callbacks to set.
    pub fn flag(&self) -> &LostFlag {
        &self.flag
    }

    fn reason(&self) -> Option<&String> {
        self.flag.0.get()
    }

    /// Asks the device. A lost one refuses at once to map a buffer; any other takes the request, which is withdrawn then.
    fn probe(&self, device: &wgpu::Device) {
        // Where another thread asks just now, it sets the flag.
        let Some(buffer) = self.probe.as_ref().and_then(|probe| probe.try_lock().ok()) else { return };
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        // Each request is withdrawn. One that another thread's poll was just granting stays granted, and the next is
        // refused for that: so a refusal counts when the buffer has been let go and is refused again.
        let refuses = || {
            let refused = Arc::new(AtomicBool::new(false));
            let told = refused.clone();
            buffer.map_async(wgpu::MapMode::Read, .., move |result| told.store(result.is_err(), Ordering::Release));
            let is_refused = refused.load(Ordering::Acquire);
            buffer.unmap();
            is_refused
        };
        if refuses() && refuses() {
            self.flag.set("it maps no buffer any more");
        }
        let _ = pollster::block_on(validation.pop());
    }
}

impl Gpu {
    /// Says that the device is lost, for the caller's own callback to call. Everything that needs it then
    /// fails with [`Error::DeviceLost`]. The first reason stays.
    pub fn set_lost(&self, reason: &str) {
        self.lost().flag().set(reason);
    }

    /// What is known by now.
    pub(in crate::gpu) fn check_lost(&self) -> Result<()> {
        self.lost().reason().map_or(Ok(()), |reason| Err(Error::DeviceLost(reason.clone())))
    }

    /// Asks the device itself. About as cheap as a bind group: for calls, not for each thing that they make.
    pub(in crate::gpu) fn check_alive(&self) -> Result<()> {
        self.check_lost()?;
        self.lost().probe(self.device());
        self.check_lost()
    }

    /// What a failure comes from: a device that is lost, where it is, else the failure itself.
    pub(in crate::gpu) fn why(&self, failure: Error) -> Error {
        self.check_alive().err().unwrap_or(failure)
    }
}
