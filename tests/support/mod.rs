//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod digest;
pub mod errors;
pub mod grid;
pub mod model;
pub mod oracle;
pub mod small;
pub mod variations;
pub mod watched;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use wgpu_optim::wgpu::PollType;
use wgpu_optim::{Arena, Gpu, Health, Optimizer, TensorSpec};

static SHARED: OnceLock<Gpu> = OnceLock::new();

/// The device of the tests. No adapter is a failure, never a skip.
pub fn gpu() -> Gpu {
    AT_THE_END.with(|_| ());
    SHARED.get_or_init(own_gpu).clone()
}

/// Nothing drops the shared device, and a process that ends while its driver's threads still work for it may crash: each
/// test's thread ends when all that is submitted there is done. A device that is dropped waits by itself.
struct AtTheEnd;

thread_local! {
    static AT_THE_END: AtTheEnd = const { AtTheEnd };
}

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let Some(device) = SHARED.get().map(|gpu| gpu.device().clone()) else { return };
        let wait =
            move || device.poll(PollType::Wait { submission_index: None, timeout: Some(Duration::from_secs(60)) });
        // Another thread, since what wgpu keeps by thread may already be gone in this one.
        if let Ok(Err(error)) = std::thread::spawn(wait).join() {
            eprintln!("what the tests submitted did not end: {error}");
        }
    }
}

/// A device that no other test has.
pub fn own_gpu() -> Gpu {
    let gpu = Gpu::headless().unwrap_or_else(|e| panic!("these tests need a GPU adapter: {e}"));
    // What a GPU runs, on a CPU adapter too, whose own choice the program's tests and `verify` run.
    gpu.set_workgroup_size(256).unwrap();
    gpu
}

/// The newest look at gradients, waited for: another thread that polls the device may be about to run the callback of one
/// that has arrived.
pub fn look(optimizer: &mut Optimizer) -> Option<Health> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while optimizer.health().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    optimizer.health().unwrap().cloned()
}

/// An encoder of that device.
pub fn encoder(gpu: &Gpu) -> wgpu_optim::wgpu::CommandEncoder {
    gpu.device().create_command_encoder(&Default::default())
}

/// Records with `record` and submits.
pub fn submit(gpu: &Gpu, record: impl FnOnce(&mut wgpu_optim::wgpu::CommandEncoder)) {
    let mut encoder = encoder(gpu);
    record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
}

/// Submits what the device refuses, with all that is recorded there.
pub fn refuse(gpu: &Gpu, mut encoder: wgpu_optim::wgpu::CommandEncoder) {
    let doomed = model::buffer(gpu, 4);
    encoder.clear_buffer(&doomed, 0, None);
    doomed.destroy();
    gpu.queue().submit([encoder.finish()]);
}

/// An arena with parameters written to it.
pub fn arena(gpu: &Gpu, specs: &[TensorSpec], params: &[Vec<f32>]) -> Arena {
    let arena = Arena::new(gpu, specs.to_vec()).unwrap();
    for (spec, params) in specs.iter().zip(params) {
        arena.write_params(&spec.name, params).unwrap();
    }
    arena
}

/// The design's measure: ‖out − ref‖ / ‖ref − start‖. Zero where both are zero.
pub fn update_error(out: &[f64], reference: &[f64], start: &[f64]) -> f64 {
    assert_eq!(out.len(), reference.len());
    assert_eq!(out.len(), start.len());
    let norm = |pairs: &mut dyn Iterator<Item = f64>| pairs.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut out.iter().zip(reference).map(|(a, b)| a - b));
    let moved = norm(&mut reference.iter().zip(start).map(|(a, b)| a - b));
    if off == 0.0 { 0.0 } else { off / moved }
}

/// ‖out − ref‖ / ‖ref‖, for state.
pub fn relative_error(out: &[f64], reference: &[f64]) -> f64 {
    update_error(out, reference, &vec![0.0; out.len()])
}

/// Widens.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// Numbers that look random and are the same on every machine.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in [-1, 1): splitmix64 (Steele, Lea & Flood 2014).
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}
