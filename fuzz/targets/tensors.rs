//! Any bytes as a file of parameters or gradients, as `replay` reads it: refused, or tensors that take a step, and
//! that are the same once written and read again.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{Adafactor, AdamW};
use wgpu_optim::{Format, Group, OptimizerConfig, TensorSpec};

#[path = "../../cli/src/error.rs"]
#[allow(dead_code, reason = "the program uses more of it")]
mod error;
#[path = "../../cli/src/tensor_file.rs"]
mod tensor_file;

use tensor_file::TensorFile;

fn config() -> OptimizerConfig {
    let mut config = OptimizerConfig::new(AdamW::default()).group(Group::matching("a*").rule(Adafactor::default()));
    // Units and rows depend on shapes.
    config.gradient.clip_adaptive = Some(0.1);
    config
}

fn step(specs: &[TensorSpec], values: &[Vec<f32>]) {
    let Ok(mut optimizer) = CpuOptimizer::<f32>::new(&config(), specs) else { return };
    let mut params = values.to_vec();
    let shape = |spec: &TensorSpec| IxDyn(&spec.shape.iter().map(|n| *n as usize).collect::<Vec<_>>());
    let tensors = specs.iter().zip(&mut params).zip(values).map(|((spec, params), gradient)| {
        let params = ArrayViewMutD::from_shape(shape(spec), params).ok()?;
        Some(CpuTensor::new(params, ArrayViewD::from_shape(shape(spec), gradient).ok()?))
    });
    if let Some(mut tensors) = tensors.collect::<Option<Vec<_>>>() {
        optimizer.step(&mut tensors).unwrap();
    }
}

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed");
    let Ok(file) = TensorFile::parse(path, bytes) else { return };
    let specs = file.specs();
    file.check_only(&specs).unwrap();
    let Ok(values) = specs.iter().map(|spec| file.values(spec)).collect::<Result<Vec<_>, _>>() else { return };
    let counts = values.iter().map(|values| Some(values.len() as u64));
    assert!(counts.eq(specs.iter().map(TensorSpec::elements)));
    step(&specs, &values);

    let formats = vec![Format::F32; specs.len()];
    let written = tensor_file::serialize(&specs, &values, &formats, file.metadata()).unwrap();
    let again = TensorFile::parse(path, &written).unwrap();
    assert_eq!((again.specs(), again.metadata()), (specs.clone(), file.metadata()));
    for (spec, values) in specs.iter().zip(&values) {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again.values(spec).unwrap()), bits(values));
    }
});
