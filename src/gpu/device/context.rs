//! A device, its limits, and what the engine has created on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::adapters::{adapters, no_adapter_hint};
use super::faults::Faults;
use super::lost::{Lost, LostFlag};
use super::peak::Peak;
use super::pipelines::Pipelines;
use super::slice::Slice;
use super::waiting::Patience;
use crate::error::{Error, Result};
use crate::plan::layout::{BUNDLE_FEATURES, DeviceLimits};
use crate::shader;
use crate::storage::Format;

/// What loads and changes of tensors may ask for at once, unless told otherwise.
pub const SPARE_MEMORY: u64 = 64 << 20;

/// Bytes that are written in one go to a new buffer.
const WRITE: usize = 16 << 20;

/// A device and its queue, and the pipelines that optimizers on it share. Clones are the same.
#[derive(Debug, Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: DeviceLimits,
    workgroup_size: AtomicU32,
    lost: Lost,
    patience: Patience,
    spare_memory: AtomicU64,
    faults: Faults,
    created: Counters,
    peak: Peak,
    pipelines: Pipelines,
}

#[derive(Debug, Default)]
struct Counters {
    pipelines: AtomicU64,
    bind_groups: AtomicU64,
    buffers: AtomicU64,
    bytes: AtomicU64,
}

/// How many objects the engine has created on a device so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectCounts {
    /// Compute pipelines.
    pub pipelines: u64,
    /// Bind groups.
    pub bind_groups: u64,
    /// Buffers, staging for readbacks included.
    pub buffers: u64,
    /// Bytes of those buffers.
    pub bytes: u64,
}

impl Gpu {
    /// The features with which one dispatch serves many tensors that lie in buffers of their own, for a device of
    /// the caller's to ask for where the adapter has all of them, with
    /// `max_binding_array_elements_per_shader_stage` as the adapter offers it. Without them, and with other backends than
    /// Vulkan, such tensors are a dispatch each.
    pub const fn bundle_features() -> wgpu::Features {
        BUNDLE_FEATURES
    }

    /// The caller's own device. Needs no feature and no limit above WebGPU's defaults; makes use of
    /// [`Gpu::bundle_features`].
    ///
    /// Its callbacks stay the caller's. That the device is lost each call finds out by itself, or is told by the caller's
    /// own callback ([`Gpu::set_lost`]). The library polls the device, so callbacks of
    /// submitted work may run in its calls; one that panics there ends as [`Error::DeviceLost`] with the panic's text,
    /// since a driver's failure looks the same.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self::with_lost_flag(device, queue, LostFlag::default())
    }

    fn with_lost_flag(device: wgpu::Device, queue: wgpu::Queue, lost: LostFlag) -> Self {
        let limits = DeviceLimits::of(&device.limits(), used_features(&device));
        let workgroup_size = shader::block_workgroup(device.adapter_info().device_type).into();
        let inner = Inner {
            lost: Lost::new(lost, &device),
            device,
            queue,
            limits,
            workgroup_size,
            patience: Patience::default(),
            spare_memory: AtomicU64::new(SPARE_MEMORY),
            faults: Faults::default(),
            created: Counters::default(),
            peak: Peak::default(),
            pipelines: Pipelines::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens a device without a window: the first of [`adapters`]. As [`Gpu::open`] otherwise.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], with what to install.
    pub fn headless() -> Result<Self> {
        pollster::block_on(Self::headless_async())
    }

    /// [`Gpu::headless`] for callers that await.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], with what to install.
    pub async fn headless_async() -> Result<Self> {
        let adapter = adapters().await.into_iter().next().ok_or_else(|| Error::NoAdapter(no_adapter_hint()))?;
        Self::open(&adapter).await
    }

    /// Opens a device on that adapter with WebGPU's default limits, raised where the adapter offers
    /// longer buffers and bindings, and with the features that it can make use of: arrays of bindings
    /// ([`Gpu::bundle_features`]), timestamps for the benches, a pipeline cache.
    ///
    /// The device's handler of uncaptured errors is the library's: an error of the caller's own on that device, such as a
    /// refused submission, surfaces as [`Error::DeviceLost`] with wgpu's text at the next call. Who wants to go on after
    /// such an error sets a handler of their own by [`Gpu::device`], or uses error scopes.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the driver's reason.
    pub async fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        let offered = adapter.limits();
        let required_limits = wgpu::Limits {
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            max_buffer_size: offered.max_buffer_size,
            max_binding_array_elements_per_shader_stage: offered.max_binding_array_elements_per_shader_stage,
            ..wgpu::Limits::default()
        };
        let useful = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::PIPELINE_CACHE | BUNDLE_FEATURES;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpu-optim"),
            required_limits,
            required_features: adapter.features() & useful,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await.map_err(|e| Error::NoAdapter(e.to_string()))?;
        let lost = LostFlag::default();
        let flag = lost.clone();
        device.set_device_lost_callback(move |reason, message| flag.set(format!("{reason:?}: {message}")));
        // wgpu panics on an error that nobody handles; here it surfaces at the next call.
        let flag = lost.clone();
        device.on_uncaptured_error(Arc::new(move |error| flag.set(error.to_string())));
        Ok(Self::with_lost_flag(device, queue, lost))
    }

    /// The device.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// The limits that shape layouts.
    pub fn limits(&self) -> &DeviceLimits {
        &self.inner.limits
    }

    /// Bytes that a load or a change of tensors may ask the device for at once, beside what the optimizer then has: 64 MiB,
    /// unless [`Gpu::set_spare_memory`] says otherwise. A change takes more where one window of state is longer, and
    /// 64 KiB are taken in any case.
    pub fn spare_memory(&self) -> u64 {
        self.inner.spare_memory.load(Ordering::Relaxed)
    }

    /// Sets [`Gpu::spare_memory`] for all that share the device.
    pub fn set_spare_memory(&self, bytes: u64) {
        self.inner.spare_memory.store(bytes, Ordering::Relaxed);
    }

    /// Threads of a workgroup, each of which serves a block of up to 4,096 elements: 256, but 8 where the
    /// adapter is a CPU, unless [`Gpu::set_workgroup_size`] says otherwise.
    pub fn workgroup_size(&self) -> u32 {
        self.inner.workgroup_size.load(Ordering::Relaxed)
    }

    /// Sets [`Gpu::workgroup_size`] for optimizers made later on the device. It decides in which order the
    /// squares of a norm are added up; nothing else depends on it but time.
    ///
    /// # Errors
    /// [`Error::Call`] for any other number than 8, 16, 32, 64, 128 or 256.
    pub fn set_workgroup_size(&self, threads: u32) -> Result<()> {
        if !threads.is_power_of_two() || !(8..=shader::WORKGROUP).contains(&threads) {
            let problem = format!("workgroups of {threads} threads: 8, 16, 32, 64, 128 or 256 are possible");
            return Err(Error::call("set_workgroup_size", problem));
        }
        self.inner.workgroup_size.store(threads, Ordering::Relaxed);
        Ok(())
    }

    /// What the engine has created so far.
    pub fn objects_created(&self) -> ObjectCounts {
        let counters = &self.inner.created;
        ObjectCounts {
            pipelines: counters.pipelines.load(Ordering::Relaxed),
            bind_groups: counters.bind_groups.load(Ordering::Relaxed),
            buffers: counters.buffers.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
        }
    }

    /// Writes values to a slice, ordered with the queue's submissions. The buffer needs `COPY_DST`.
    ///
    /// # Errors
    /// The values do not fit the slice, or the buffer cannot be written to.
    pub fn write(&self, slice: &Slice, values: &[f32]) -> Result<()> {
        self.write_as(slice, Format::F32, values)
    }

    /// Writes values to a slice as that format, rounded to nearest. Where they end within a word, the
    /// rest of it becomes zero.
    ///
    /// # Errors
    /// The values do not fit the slice, or the buffer cannot be written to.
    pub fn write_as(&self, slice: &Slice, format: Format, values: &[f32]) -> Result<()> {
        if values.len() as u64 * format.bytes() != slice.size {
            let (count, format) = (values.len(), format.name());
            let reason = format!("{count} values in {format} for a slice of {} bytes", slice.size);
            return Err(Error::Device { what: "a write".to_owned(), reason });
        }
        let mut bytes = format.encode(values);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.put(&slice.buffer, slice.offset, &bytes)
    }

    /// Writes bytes to a buffer, ordered with the queue's submissions.
    pub(in crate::gpu) fn put(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_alive()?;
        // Staging memory is allocated for it.
        if self.faults().refuses_allocation() {
            return Err(out_of_memory(&format!("a write of {} bytes", bytes.len())));
        }
        self.scoped("a write", |_| self.queue().write_buffer(buffer, offset, bytes))?;
        self.look_at_memory();
        Ok(())
    }

    pub(in crate::gpu) fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    pub(super) fn peak(&self) -> &Peak {
        &self.inner.peak
    }

    pub(in crate::gpu) fn pipelines(&self) -> &Pipelines {
        &self.inner.pipelines
    }

    pub(in crate::gpu) fn lost(&self) -> &Lost {
        &self.inner.lost
    }

    pub(in crate::gpu) fn patience(&self) -> &Patience {
        &self.inner.patience
    }

    /// Runs `make` so that what the device refuses comes back as an error instead of reaching the
    /// caller's handler.
    pub(in crate::gpu) fn scoped<T>(&self, what: &str, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        self.check_lost()?;
        let device = self.device();
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let made = make(device);
        // Ready at once on native backends.
        let errors = pollster::block_on(async { [internal.pop().await, validation.pop().await, memory.pop().await] });
        match errors.into_iter().flatten().next() {
            Some(error) => Err(self.why(refused(what, &error))),
            None => Ok(made),
        }
    }

    pub(in crate::gpu) fn count_pipeline(&self) {
        self.inner.created.pipelines.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::gpu) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        if size > self.limits().buffer {
            let reason = format!("{size} bytes, and its longest buffer has {}", self.limits().buffer);
            return Err(Error::Device { what: format!("buffer {label:?}"), reason });
        }
        self.allocate(label, size, |device| {
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
        })
    }

    pub(in crate::gpu) fn buffer_of(
        &self,
        label: &str,
        contents: &[u8],
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        // Where there is no memory, `create_buffer_init` would panic.
        let size = contents.len() as u64;
        let buffer = self.buffer(label, size.next_multiple_of(4), usage | wgpu::BufferUsages::COPY_DST)?;
        let mut at = 0;
        for part in contents.chunks(WRITE) {
            if at > 0 {
                // What is written lies in memory of the device's a second time until it is submitted and done.
                self.queue().submit([]);
                self.wait("a write", Instant::now())?;
            }
            self.put(&buffer, at, part)?;
            at += part.len() as u64;
        }
        Ok(buffer)
    }

    /// A buffer that the host can write to at once.
    pub(in crate::gpu) fn mapped_buffer(
        &self,
        label: &str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        self.allocate(label, size, |device| {
            device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: true })
        })
    }

    /// Asks for so much memory, and gives it back: what comes after it will find that much.
    pub(in crate::gpu) fn reserve(&self, bytes: u64) -> Result<()> {
        let longest = self.limits().buffer;
        let mut reserved = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let size = left.min(longest);
            reserved.push(self.buffer("reserve", size, wgpu::BufferUsages::COPY_DST)?);
            left -= size;
        }
        drop(reserved);
        self.wait("a reserve of memory", Instant::now())
    }

    fn allocate(
        &self,
        label: &str,
        size: u64,
        make: impl FnOnce(&wgpu::Device) -> wgpu::Buffer,
    ) -> Result<wgpu::Buffer> {
        self.check_alive()?;
        let what = format!("buffer {label:?} of {size} bytes");
        self.inner.created.buffers.fetch_add(1, Ordering::Relaxed);
        self.inner.created.bytes.fetch_add(size, Ordering::Relaxed);
        let buffer = self.scoped(&what, make)?;
        self.look_at_memory();
        if self.faults().refuses_allocation() {
            return Err(out_of_memory(&what));
        }
        Ok(buffer)
    }

    pub(in crate::gpu) fn bind_group(
        &self,
        label: &str,
        layout: &wgpu::BindGroupLayout,
        entries: &[(u32, wgpu::BindingResource<'_>)],
    ) -> Result<wgpu::BindGroup> {
        self.inner.created.bind_groups.fetch_add(1, Ordering::Relaxed);
        let entries: Vec<_> = entries
            .iter()
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding: *binding, resource: resource.clone() })
            .collect();
        self.scoped(&format!("bind group {label:?}"), |device| {
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries })
        })
    }
}

/// wgpu has had arrays of buffers on Metal for a short time, and no Mac has run the tests: there tensors in buffers of
/// their own stay a dispatch each.
fn used_features(device: &wgpu::Device) -> wgpu::Features {
    match device.adapter_info().backend {
        wgpu::Backend::Vulkan => device.features(),
        _ => device.features() - BUNDLE_FEATURES,
    }
}

fn out_of_memory(what: &str) -> Error {
    Error::OutOfMemory { what: what.to_owned() }
}

fn refused(what: &str, error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => out_of_memory(what),
        _ => Error::Device { what: what.to_owned(), reason: error.to_string() },
    }
}
