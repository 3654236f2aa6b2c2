//! What a step must leave alone, and that it does not matter where a tensor lies.

use super::runs::{GpuRun, Numbers, SHAPES, draw, specs};
use crate::config::{Group, OptimizerConfig};
use crate::error::Result;
use crate::gpu::{Gpu, Optimizer, Slice, Tensor};

/// Runs `steps` steps over tensors that lie between words of the caller's, at offsets that no vector starts at, and
/// says what went wrong: a word beside the tensors that is no longer as it was, a parameter that was not written,
/// or other bits than the same run in an arena has.
///
/// # Errors
/// The configuration cannot be used, or the device fails.
pub fn check_guard_words(gpu: &Gpu, config: &OptimizerConfig, steps: usize) -> Result<Option<String>> {
    /// A NaN whose payload tells its place: whatever is computed with it shows.
    fn guard(word: u64) -> u32 {
        0x7fa0_0000 | (word as u32 & 0xf_ffff)
    }
    let specs = specs(&SHAPES);
    let mut numbers = Numbers(0x9a7d);
    let mut draw = || draw(&SHAPES, &mut numbers, |numbers, _| numbers.next());
    let params = draw();
    let gradients: Vec<_> = (0..steps).map(|_| draw()).collect();
    let mut in_arena = GpuRun::new(gpu, config, &specs, &params)?;
    gradients.iter().try_for_each(|gradients| in_arena.step(gradients))?;
    let (in_arena, _) = in_arena.read()?;

    let mut places = Vec::new();
    let mut end = 0u64;
    for (i, spec) in (0u64..).zip(&specs) {
        let elements = spec.elements().unwrap_or(0);
        let start = (end + 5).next_multiple_of(64) + i % 3 + 1;
        places.push((start, elements));
        end = start + elements;
    }
    let words: Vec<u32> = (0..end + 5).map(guard).collect();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let [weights, slopes] = [(); 2].map(|()| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("guarded"),
            size: words.len() as u64 * 4,
            usage,
            mapped_at_creation: false,
        })
    });
    let slice = |buffer, (start, elements): &(u64, u64)| Slice::new(buffer, start * 4, elements * 4);
    let whole = Slice::new(&weights, 0, weights.size());
    let values: Vec<f32> = words.iter().map(|word| f32::from_bits(*word)).collect();
    gpu.write(&whole, &values)?;
    gpu.write(&Slice::new(&slopes, 0, slopes.size()), &values)?;
    let tensors: Vec<_> = specs
        .iter()
        .zip(&places)
        .map(|(spec, place)| {
            Tensor::new(spec.name.clone(), spec.shape.clone(), slice(&weights, place))
                .with_gradient(slice(&slopes, place))
        })
        .collect();
    for (tensor, params) in tensors.iter().zip(&params) {
        gpu.write(&tensor.params, params)?;
    }
    let mut optimizer = Optimizer::new(gpu, config, tensors.clone())?;
    for gradients in &gradients {
        for (tensor, values) in tensors.iter().zip(gradients) {
            tensor.gradient.iter().try_for_each(|slice| gpu.write(slice, values))?;
        }
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        optimizer.step(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }
    let found = optimizer.params_blocking()?;
    // The guards, read as the parameters of an optimizer that never steps.
    let around = Tensor::new("guards", [words.len() as u64], whole);
    let frozen = OptimizerConfig::from_boxed(config.rule.boxed()).group(Group::matching("*").frozen());
    let around = Optimizer::new(gpu, &frozen, [around])?.params_blocking()?.swap_remove(0);
    let within = |word: u64| places.iter().any(|(start, len)| (*start..start + len).contains(&word));
    let broken = (0u64..).zip(&around).filter(|(word, x)| !within(*word) && x.to_bits() != guard(*word)).count();
    if broken > 0 {
        return Ok(Some(format!("{broken} words beside the tensors were written")));
    }
    let same = |(t, values): (usize, &Vec<f32>)| {
        in_arena[t].iter().map(|x| x.to_bits()).eq(values.iter().map(|x| x.to_bits()))
    };
    let differs = found.iter().enumerate().find(|pair| !same(*pair)).map(|(t, _)| &specs[t].name);
    Ok(differs.map(|name| format!("{name} has other bits than in an arena")))
}
