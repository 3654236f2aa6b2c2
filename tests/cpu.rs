//! The CPU backend, whatever the caller's arrays look like and however many threads there are.

mod support;

use ndarray::{ArrayD, ArrayViewMutD, Axis, IxDyn, Slice};
use support::Numbers;
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{self, Adafactor, AdamW, Lamb, ScheduleFreeAdamW, Sgd};
use wgpu_optim::verify;
use wgpu_optim::{CpuFloat, EmaConfig, HealthConfig, OptimizerConfig, TensorSpec};

/// How an array lies in the memory that a caller brings.
#[derive(Debug, Clone, Copy)]
enum Layout {
    RowMajor,
    ColumnMajor,
    /// From the end to the start, along every axis.
    Reversed,
    /// Every second element along every axis of a larger array.
    Strided,
}

const OTHERS: [Layout; 3] = [Layout::ColumnMajor, Layout::Reversed, Layout::Strided];

/// What lies between the elements of a strided array.
const BETWEEN: f64 = 1234.5;

/// Memory and how it is looked at.
struct Laid<F> {
    memory: ArrayD<F>,
    layout: Layout,
}

impl<F: CpuFloat> Laid<F> {
    fn new(values: &ArrayD<F>, layout: Layout) -> Self {
        let shape: Vec<_> = match layout {
            Layout::ColumnMajor => values.shape().iter().rev().copied().collect(),
            Layout::Strided => values.shape().iter().map(|n| 2 * n).collect(),
            _ => values.shape().to_vec(),
        };
        let mut laid = Self { memory: ArrayD::from_elem(IxDyn(&shape), F::of(BETWEEN)), layout };
        laid.view().assign(values);
        laid
    }

    fn view(&mut self) -> ArrayViewMutD<'_, F> {
        let view = self.memory.view_mut();
        match self.layout {
            Layout::RowMajor => view,
            Layout::ColumnMajor => view.reversed_axes(),
            Layout::Reversed => sliced(view, Slice::new(0, None, -1)),
            Layout::Strided => sliced(view, Slice::new(0, None, 2)),
        }
    }

    /// The elements that are not looked at.
    fn between(&self) -> Vec<F> {
        let mut rest = self.memory.clone();
        if let Layout::Strided = self.layout {
            sliced(rest.view_mut(), Slice::new(0, None, 2)).fill(F::of(BETWEEN));
            return rest.into_iter().collect();
        }
        Vec::new()
    }
}

fn sliced<F>(mut view: ArrayViewMutD<'_, F>, slice: Slice) -> ArrayViewMutD<'_, F> {
    for axis in 0..view.ndim() {
        view.slice_axis_inplace(Axis(axis), slice);
    }
    view
}

/// A matrix, a stack, a vector, a scalar and nothing at all.
fn specs() -> Vec<TensorSpec> {
    let shapes: [&[u64]; 5] = [&[7, 9], &[3, 4, 5], &[37], &[], &[0, 3]];
    shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("t{i}"), shape.to_vec())).collect()
}

fn values<F: CpuFloat>(specs: &[TensorSpec], seed: u64) -> Vec<ArrayD<F>> {
    let mut numbers = Numbers::new(seed);
    let one = |spec: &TensorSpec| {
        let shape: Vec<_> = spec.shape.iter().map(|n| *n as usize).collect();
        let values = numbers.take(spec.elements().unwrap() as usize);
        ArrayD::from_shape_vec(IxDyn(&shape), values.into_iter().map(|x| F::of(x.into())).collect()).unwrap()
    };
    specs.iter().map(one).collect()
}

/// Configurations that reach everything a step does to memory: each rule, each storage, lines, norms and averages.
fn configs() -> Vec<OptimizerConfig> {
    let mut configs: Vec<_> = rules::all().into_iter().map(OptimizerConfig::from_boxed).collect();
    configs
        .extend(verify::storages().into_iter().map(|storage| OptimizerConfig::new(AdamW::default()).storage(storage)));
    let mut whole = OptimizerConfig::new(Adafactor::default());
    whole.gradient.accumulate = 2;
    whole.gradient.clip_value = Some(0.5);
    whole.gradient.clip_adaptive = Some(0.1);
    whole.weights.max_norm = Some(3.0);
    whole.ema = Some(EmaConfig { decay: 0.9, ..EmaConfig::default() });
    whole.common.cautious = false;
    configs.push(whole);
    configs
}

/// Parameters after some steps as bits, and the state.
fn run<F: CpuFloat>(config: &OptimizerConfig, layout: Layout) -> (Vec<Vec<u64>>, String) {
    let specs = specs();
    let mut optimizer = CpuOptimizer::<F>::new(config, &specs).unwrap();
    let mut params: Vec<_> = values::<F>(&specs, 1).iter().map(|p| Laid::new(p, layout)).collect();
    for step in 0..4 {
        let mut gradients: Vec<_> = values::<F>(&specs, 2 + step).iter().map(|g| Laid::new(g, layout)).collect();
        let gradients: Vec<_> = gradients.iter_mut().map(Laid::view).collect();
        let pairs = params.iter_mut().zip(&gradients);
        let mut tensors: Vec<_> = pairs.map(|(p, g)| CpuTensor::new(p.view(), g.view())).collect();
        optimizer.step(&mut tensors).unwrap();
    }
    if optimizer.plan().averages() {
        let views: Vec<_> = params.iter_mut().map(Laid::view).collect();
        let averaged = optimizer.evaluation_weights(&views).unwrap();
        params.iter_mut().zip(averaged).for_each(|(p, average)| p.view().assign(&average));
    }
    if config.ema.is_some() {
        optimizer.swap_ema(&mut params.iter_mut().map(Laid::view).collect::<Vec<_>>()).unwrap();
    }
    let untouched = params.iter().flat_map(Laid::between).all(|x| x.f64() == BETWEEN);
    assert!(untouched, "{layout:?}: what lies between was written");
    let bits = |p: &mut Laid<F>| p.view().iter().map(|x| x.f64().to_bits()).collect();
    (params.iter_mut().map(bits).collect(), format!("{:?}", optimizer.state()))
}

#[test]
fn arrays_may_lie_in_any_order() {
    for config in configs() {
        let expected = (run::<f32>(&config, Layout::RowMajor), run::<f64>(&config, Layout::RowMajor));
        for layout in OTHERS {
            let found = (run::<f32>(&config, layout), run::<f64>(&config, layout));
            assert!(found == expected, "{} {:?} {layout:?}", config.rule.name(), config.storage);
        }
    }
}

#[test]
fn the_layouts_are_what_they_say() {
    let values: ArrayD<f64> = values::<f64>(&specs()[..1], 1).remove(0);
    for layout in OTHERS {
        let mut laid = Laid::new(&values, layout);
        assert!(!laid.view().is_standard_layout(), "{layout:?}");
        assert_eq!(laid.view(), values);
    }
    let mut strided = Laid::new(&values, Layout::Strided);
    strided.memory[[1, 1]] = 0.0;
    assert!(strided.between().contains(&0.0));
}

/// One gradient for every row, as a broadcast view has it: no memory of its own for the others.
#[test]
fn a_gradient_may_be_a_broadcast_view() {
    let specs = [TensorSpec::new("w", [5, 9])];
    let row = Numbers::new(3).take(9);
    let row = ArrayD::from_shape_vec(IxDyn(&[9]), row).unwrap();
    let step = |gradient: ndarray::ArrayViewD<'_, f32>| {
        let mut params = values::<f32>(&specs, 1).remove(0);
        let mut optimizer = CpuOptimizer::<f32>::new(&OptimizerConfig::new(AdamW::default()), &specs).unwrap();
        optimizer.step(&mut [CpuTensor::new(params.view_mut(), gradient)]).unwrap();
        params
    };
    let broadcast = row.broadcast(IxDyn(&[5, 9])).unwrap();
    assert_eq!(step(broadcast.view()), step(broadcast.to_owned().view()));
}

/// Tensors of many tasks, of one and of less, so that work is shared out differently by 1, 2 and 7 threads.
fn long() -> Vec<TensorSpec> {
    let shapes: [&[u64]; 4] = [&[200_003], &[700, 133], &[40, 9, 9], &[1]];
    shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("t{i}"), shape.to_vec())).collect()
}

fn shared_out(config: &OptimizerConfig, threads: usize) -> String {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        assert_eq!(rayon::current_num_threads(), threads);
        let specs = long();
        let mut optimizer = CpuOptimizer::<f32>::new(config, &specs).unwrap();
        optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
        let mut params = values::<f32>(&specs, 1);
        let mut told = Vec::new();
        for step in 0..3 {
            let gradients = values::<f32>(&specs, 2 + step);
            let pairs = params.iter_mut().zip(&gradients);
            let mut tensors: Vec<_> = pairs.map(|(p, g)| CpuTensor::new(p.view_mut(), g.view())).collect();
            let report = optimizer.step(&mut tensors).unwrap();
            told.push(format!("{report:?} {:?}", optimizer.health()));
        }
        let bits = params.iter().flatten().map(|x| x.to_bits());
        // Long, but only told apart, never shown.
        format!("{told:?} {:?} {:?}", bits.collect::<Vec<_>>(), optimizer.state())
    })
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut clipped = OptimizerConfig::new(Sgd { momentum: 0.9, ..Sgd::default() }).clip_global_norm(1.0);
    clipped.weights.max_norm = Some(5.0);
    clipped.gradient.accumulate = 3;
    let mut lines = OptimizerConfig::new(Adafactor::default());
    lines.gradient.clip_adaptive = Some(0.1);
    let mut masked = OptimizerConfig::new(AdamW::default());
    masked.common.cautious = true;
    masked.ema = Some(EmaConfig { decay: 0.9, ..EmaConfig::default() });
    masked.gradient.clip_tensor_norm = Some(1.0);
    let averaged = OptimizerConfig::new(ScheduleFreeAdamW::default());
    let ratio = OptimizerConfig::new(Lamb::default());
    let stored = verify::storages().into_iter().map(|storage| OptimizerConfig::new(AdamW::default()).storage(storage));
    for config in [clipped, lines, masked, averaged, ratio].into_iter().chain(stored) {
        let alone = shared_out(&config, 1);
        for threads in [2, 7] {
            assert!(shared_out(&config, threads) == alone, "{} by {threads} threads", config.rule.name());
        }
    }
}
