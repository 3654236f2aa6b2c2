//! A device whose uncaptured errors are collected.

use std::sync::{Arc, Mutex};

use wgpu_optim::{Gpu, wgpu};

pub struct Watched {
    pub gpu: Gpu,
    uncaptured: Arc<Mutex<Vec<String>>>,
}

pub fn adapter() -> wgpu::Adapter {
    pollster::block_on(wgpu_optim::gpu::adapters()).into_iter().next().expect("an adapter")
}

impl Watched {
    /// A device of the caller's.
    pub fn own() -> Self {
        Self::of(&adapter())
    }

    pub fn of(adapter: &wgpu::Adapter) -> Self {
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
        Self::watch(Gpu::new(device, queue))
    }

    /// Takes the place of the handler that the device has.
    pub fn watch(gpu: Gpu) -> Self {
        let uncaptured = Arc::<Mutex<Vec<String>>>::default();
        let seen = uncaptured.clone();
        gpu.device().on_uncaptured_error(Arc::new(move |error| seen.lock().unwrap().push(error.to_string())));
        Self { gpu, uncaptured }
    }

    pub fn assert_quiet(&self) {
        // A lost device has nothing left to say.
        let _ = self.gpu.device().poll(wgpu::PollType::wait_indefinitely());
        assert_eq!(*self.uncaptured.lock().unwrap(), Vec::<String>::new());
    }
}
