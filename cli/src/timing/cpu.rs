//! Steps on the CPU, on all cores.

use std::hint::black_box;
use std::time::Instant;

use ndarray::{Array1, ArrayD};
use rayon::prelude::*;
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::plan::Plan;
use wgpu_optim::{Format, StateFormat};

use super::{Case, Subject, specs, steps_at_once, values};
use crate::error::Result;

#[derive(Debug)]
pub struct CpuSubject {
    optimizer: CpuOptimizer<f32>,
    params: Vec<ArrayD<f32>>,
    gradients: Vec<ArrayD<f32>>,
    stream: Stream,
}

impl CpuSubject {
    pub fn new(case: &Case) -> Result<Self> {
        let specs = specs(case.elements, case.tensors);
        let optimizer = CpuOptimizer::new(&case.config, &specs)?;
        let arrays = |seed: u32| -> Vec<ArrayD<f32>> {
            let array = |(tensor, len): (u32, usize)| Array1::from(values(len, seed + tensor)).into_dyn();
            (0..).zip(specs.iter().map(|s| s.shape[0] as usize)).map(array).collect()
        };
        let (params, gradients) = (arrays(1), arrays(0x1000_0000));
        let stream = Stream::new(optimizer.plan(), case.elements);
        Ok(Self { optimizer, params, gradients, stream })
    }
}

impl Subject for CpuSubject {
    fn step(&mut self) -> Result<f64> {
        let steps = steps_at_once(self.stream.params.len());
        let start = Instant::now();
        for _ in 0..steps {
            let pairs = self.params.iter_mut().zip(&self.gradients);
            let mut tensors: Vec<_> = pairs.map(|(p, g)| CpuTensor::new(p.view_mut(), g.view())).collect();
            self.optimizer.step(&mut tensors)?;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(steps))
    }

    fn stream(&mut self) -> Result<f64> {
        let steps = steps_at_once(self.stream.params.len());
        let start = Instant::now();
        (0..steps).for_each(|_| self.stream.step());
        Ok(start.elapsed().as_secs_f64() / f64::from(steps))
    }

    fn recording(&self) -> &[f64] {
        &[]
    }

    fn bytes_moved(&self) -> u64 {
        bytes_moved(self.optimizer.plan())
    }
}

/// Parameters and gradients are f32 in memory, whatever they are rounded to; state lies as it is stored.
fn bytes_moved(plan: &Plan) -> u64 {
    let of = |tensor: usize| {
        let variant = plan.variant_of(tensor);
        let [params, gradient] =
            [variant.storage.params, variant.storage.gradients].map(|f| Format::F32.bytes() - f.bytes());
        let [scans, measures] = [plan.gradient.needs_scan(), variant.measures()].map(u64::from);
        let lines = if variant.factored { 2 } else { 0 };
        plan.tensors[tensor].elements * (params * (2 + measures) + gradient * (1 + scans + measures + lines))
    };
    plan.bytes_moved() + (0..plan.tensors.len()).map(of).sum::<u64>()
}

/// Elements of a task.
const TASK: usize = 1 << 15;

/// The same bytes in slices, without the maths.
#[derive(Debug)]
struct Stream {
    /// Whether gradients are read once more, ahead of the update.
    scans: bool,
    /// Whether everything is read once more, ahead of the update.
    measures: bool,
    params: Vec<u32>,
    gradients: Vec<u32>,
    /// Slot after slot within a task's elements.
    state: Vec<u32>,
    /// Words of it for a task.
    state_task: usize,
}

impl Stream {
    fn new(plan: &Plan, elements: usize) -> Self {
        let words = |count, seed| values(count, seed).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        // Four elements take as many words as one takes bytes. The scales of q8 are left out.
        let bytes: u32 = plan.variant_of(0).formats().map(StateFormat::quad_words).sum();
        let state = (elements * bytes as usize).div_ceil(4);
        Self {
            scans: plan.gradient.needs_scan(),
            measures: plan.measures(),
            params: words(elements, 1),
            gradients: words(elements, 2),
            state: words(state, 3),
            state_task: TASK * bytes as usize / 4,
        }
    }

    fn step(&mut self) {
        let fold = |words: &[u32]| words.iter().fold(0, |bits, word| bits ^ word);
        if self.scans {
            black_box(self.gradients.par_chunks(TASK).map(fold).reduce(|| 0, |a, b| a ^ b));
        }
        if self.measures {
            let state = self.state.par_chunks(self.state_task.max(1)).map(fold).reduce(|| 0, |a, b| a ^ b);
            let pairs = self.params.par_chunks(TASK).zip(self.gradients.par_chunks(TASK));
            black_box(state ^ pairs.map(|(p, g)| fold(p) ^ fold(g)).reduce(|| 0, |a, b| a ^ b));
        }
        let mix = |words: &mut [u32], gradients: &[u32]| words.iter_mut().zip(gradients).for_each(|(w, g)| *w ^= g);
        let pairs = self.params.par_chunks_mut(TASK).zip(self.gradients.par_chunks(TASK));
        if self.state_task == 0 {
            return pairs.for_each(|(params, gradients)| mix(params, gradients));
        }
        pairs.zip(self.state.par_chunks_mut(self.state_task)).for_each(|((params, gradients), state)| {
            mix(params, gradients);
            state.chunks_mut(gradients.len()).for_each(|words| mix(words, gradients));
        });
    }
}

#[cfg(test)]
mod tests {
    use wgpu_optim::rules::{AdamW, Lamb};
    use wgpu_optim::{OptimizerConfig, Rule, StorageConfig, verify};

    use super::*;

    #[test]
    fn narrow_state_moves_fewer_bytes_and_narrow_parameters_as_many() {
        let bytes = |rule: &dyn Rule, storage: StorageConfig| {
            let case = Case {
                config: OptimizerConfig::from_boxed(rule.boxed()).storage(storage),
                elements: 8192,
                tensors: 1,
                own_buffers: false,
            };
            let mut subject = CpuSubject::new(&case).unwrap();
            subject.step().unwrap();
            subject.stream().unwrap();
            (subject.bytes_moved() as f64 / 8192.0, subject.stream.state.len() * 4 / 8192)
        };
        let [_, (_, bf16), .., (_, q8)] = verify::named_storages();
        let (adamw, lamb) = (AdamW::default(), Lamb::default());
        // Gradients twice, parameters in and out, state in and out.
        assert_eq!(bytes(&adamw, StorageConfig::default()), (8.0 + 8.0 + 16.0, 8));
        assert_eq!(bytes(&adamw, bf16.clone()), (8.0 + 8.0 + 8.0, 4));
        assert_eq!(bytes(&adamw, q8), (8.0 + 8.0 + 4.0 + 4.0 / 64.0, 2));
        // All of it once more.
        assert_eq!(bytes(&lamb, bf16), (24.0 + 4.0 + 4.0 + 4.0, 4));
    }
}
