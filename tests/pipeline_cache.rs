//! The driver's pipeline cache in a file, where the device offers one: written, read again by another device,
//! and of no account where it is damaged.
#![allow(unsafe_code, reason = "the driver trusts the file, and here it is the test's own")]

mod support;

use std::path::{Path, PathBuf};

use support::{Numbers, arena, submit};
use wgpu_optim::rules::AdamW;
use wgpu_optim::wgpu::Features;
use wgpu_optim::{Gpu, Optimizer, OptimizerConfig, TensorSpec};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wgpu-optim-cache-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A step on a device of its own that uses the file; whether it could, and the parameters after.
fn step(file: &Path) -> (Gpu, bool, Vec<Vec<f32>>) {
    let gpu = Gpu::headless().unwrap();
    // SAFETY: the file is this test's own.
    let used = unsafe { gpu.use_pipeline_cache(file) }.unwrap();
    let specs = [TensorSpec::new("w", [5000])];
    let arena = arena(&gpu, &specs, &[Numbers::new(1).take(5000)]);
    arena.write_gradient("w", &Numbers::new(2).take(5000)).unwrap();
    let config = OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0);
    let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    let params = optimizer.params_blocking().unwrap();
    (gpu, used, params)
}

#[test]
fn pipelines_are_kept_in_a_file_where_the_device_can() {
    let folder = Folder::new();
    let file = folder.0.join("pipelines");
    let (gpu, used, expected) = step(&file);
    let offered = gpu.device().features().contains(Features::PIPELINE_CACHE);
    assert_eq!(used, offered);
    assert_eq!(gpu.save_pipeline_cache(&file).unwrap(), offered);
    assert_eq!(file.exists(), offered);
    println!("the device offers a pipeline cache: {offered}");

    let (_, _, again) = step(&file);
    assert_eq!(again, expected);
    if offered {
        let mut damaged = std::fs::read(&file).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        let (_, used, again) = step(&file);
        assert!(used);
        assert_eq!(again, expected);
    }
    // Where no file can be.
    assert_eq!(gpu.save_pipeline_cache(&folder.0.join("none/pipelines")).is_err(), offered);
}
