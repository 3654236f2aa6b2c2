//! What a step costs the host: recording, and with it the encoder's `finish`, where wgpu does much of
//! the work. Encoders are created and submitted outside the clock.

mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use support::{arena, configs, encoder, gpu, wait};
use wgpu_optim::{Gpu, Optimizer, Slice, Tensor, wgpu};

/// Elements of a tensor: so few that the device hardly works.
const ELEMENTS: usize = 64;

/// The time of `iterations` calls of `record`, and of `finish` if asked.
fn time(gpu: &Gpu, iterations: u64, finish: bool, mut record: impl FnMut(&mut wgpu::CommandEncoder)) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..iterations {
        let mut encoder = encoder(gpu);
        let start = Instant::now();
        record(&mut encoder);
        let recorded = start.elapsed();
        let commands = encoder.finish();
        spent += if finish { start.elapsed() } else { recorded };
        gpu.queue().submit([commands]);
        wait(gpu);
    }
    spent
}

fn buffers(gpu: &Gpu, count: usize) -> Vec<Slice> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let size = 4 * ELEMENTS as u64;
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    (0..count).map(|_| (&gpu.device().create_buffer(&descriptor)).into()).collect()
}

fn recording(criterion: &mut Criterion) {
    let gpu = gpu();
    let [(_, config, _), _] = configs();
    let mut group = criterion.benchmark_group("recording");
    let mut bench = |name: &str, record: &mut dyn FnMut(&mut wgpu::CommandEncoder)| {
        for (finish, what) in [(false, "step"), (true, "step and finish")] {
            group.bench_function(format!("{name}/{what}"), |bencher| {
                bencher.iter_custom(|n| time(&gpu, n, finish, &mut *record));
            });
        }
    };
    for count in [1, 100, 1000] {
        let arena = arena(&gpu, ELEMENTS * count, count);
        let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
        bench(&format!("arena of {count}"), &mut |encoder| optimizer.step(encoder).unwrap());
    }

    let count = if support::test_mode() { 10 } else { 1000 };
    // More sets than the optimizer keeps bind groups for.
    let gradients: Vec<_> = (0..20).map(|_| buffers(&gpu, count)).collect();
    let params = buffers(&gpu, count);
    let tensors = params.into_iter().zip(&gradients[0]).enumerate().map(|(i, (params, gradient))| {
        Tensor::new(format!("tensor{i}"), [ELEMENTS as u64], params).with_gradient(gradient.clone())
    });
    let mut optimizer = Optimizer::new(&gpu, &config, tensors).unwrap();
    bench(&format!("{count} buffers"), &mut |encoder| optimizer.step(encoder).unwrap());
    let mut turn = 0;
    for (sets, what) in [(2, "two sets of gradients in turns"), (20, "gradients in new buffers each step")] {
        bench(&format!("{count} buffers, {what}"), &mut |encoder| {
            turn = (turn + 1) % sets;
            for (tensor, gradient) in gradients[turn].iter().enumerate() {
                optimizer.set_gradient(tensor, Some(gradient.clone())).unwrap();
            }
            optimizer.step(encoder).unwrap();
        });
    }
    bench(&format!("{count} buffers, one gradient elsewhere each step"), &mut |encoder| {
        turn += 1;
        let (set, tensor) = (turn / count % gradients.len(), turn % count);
        optimizer.set_gradient(tensor, Some(gradients[set][tensor].clone())).unwrap();
        optimizer.step(encoder).unwrap();
    });
}

criterion_group! {
    name = benches;
    config = support::criterion();
    targets = recording
}
criterion_main!(benches);
