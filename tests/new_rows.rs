//! Averages of the weights in rows that join a tensor late: they start from what the caller writes there.

mod support;

use ndarray::{ArrayD, IxDyn};
use support::model::{Model, Place, buffer};
use support::{gpu, submit};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{AdamW, Adan, ScheduleFreeAdamW};
use wgpu_optim::{EmaConfig, OptimizerConfig, Slice, StateFormat, StorageConfig, Tensor, TensorSpec};

/// A row of four, and where a second joins.
const ROWS: [Option<u32>; 2] = [Some(0), None];

fn specs() -> Vec<TensorSpec> {
    vec![TensorSpec::new("points", [1, 4])]
}

/// Three steps, then a second row of 0.5 on the GPU.
fn with_a_new_row(config: &OptimizerConfig, zeroed: bool) -> Model {
    let gpu = gpu();
    let mut model = Model::new(&gpu, config, &specs(), &[vec![1.0; 4]], Place::Arena);
    (0..3).for_each(|_| model.step(&[vec![0.25; 4]]));
    let own = || Slice::new(&buffer(&gpu, 32), 0, 32);
    let tensor = Tensor::new("points", [2, 4], own()).with_gradient(own());
    model.optimizer.set_rows(tensor, &ROWS).unwrap();
    if zeroed {
        submit(&gpu, |encoder| model.optimizer.zero_rows(encoder, "points", &[1]).unwrap());
    }
    let params = model.optimizer.tensors()[0].params.clone();
    gpu.write(&Slice::new(&params.buffer, params.offset + 16, 16), &[0.5; 4]).unwrap();
    let gradient = model.optimizer.tensors()[0].gradient.clone().unwrap();
    gpu.write(&gradient, &[0.25; 8]).unwrap();
    model
}

/// The same on the CPU.
fn on_the_cpu(config: &OptimizerConfig) -> (CpuOptimizer<f64>, ArrayD<f64>) {
    let mut optimizer = CpuOptimizer::<f64>::new(config, &specs()).unwrap();
    let mut params = ArrayD::from_elem(IxDyn(&[1, 4]), 1.0);
    let gradient = ArrayD::from_elem(IxDyn(&[2, 4]), 0.25);
    for _ in 0..3 {
        let one = gradient.slice(ndarray::s![..1, ..]).into_dyn();
        optimizer.step(&mut [CpuTensor { params: params.view_mut(), gradient: Some(one) }]).unwrap();
    }
    optimizer.set_rows("points", &ROWS).unwrap();
    let mut grown = ArrayD::from_elem(IxDyn(&[2, 4]), 0.5);
    grown.slice_mut(ndarray::s![..1, ..]).assign(&params);
    (optimizer, grown)
}

fn step(optimizer: &mut CpuOptimizer<f64>, params: &mut ArrayD<f64>) {
    let gradient = ArrayD::from_elem(IxDyn(&[2, 4]), 0.25);
    let tensor = CpuTensor { params: params.view_mut(), gradient: Some(gradient.view()) };
    optimizer.step(&mut [tensor]).unwrap();
}

#[track_caller]
fn assert_near(got: &[f32], want: &ArrayD<f64>) {
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() < 1e-6, "{got}, expected {want}");
    }
}

#[test]
fn the_moving_average_of_a_new_row_starts_from_its_weights() {
    let config = OptimizerConfig::new(AdamW::default()).ema(EmaConfig { decay: 0.5, ..EmaConfig::default() });
    let (mut optimizer, mut params) = on_the_cpu(&config);
    // None before a step: the weights stay.
    optimizer.swap_ema(&mut [params.view_mut()]).unwrap();
    assert!(params.iter().skip(4).all(|p| *p == 0.5), "{params}");
    optimizer.swap_ema(&mut [params.view_mut()]).unwrap();
    step(&mut optimizer, &mut params);
    let trained = params.clone();
    optimizer.swap_ema(&mut [params.view_mut()]).unwrap();
    assert_eq!(params.iter().skip(4).collect::<Vec<_>>(), trained.iter().skip(4).collect::<Vec<_>>());
    assert_ne!(params[[0, 0]], trained[[0, 0]]);

    for zeroed in [false, true] {
        let mut model = with_a_new_row(&config, zeroed);
        let swap = |model: &mut Model| submit(&model.gpu, |encoder| model.optimizer.swap_ema(encoder).unwrap());
        swap(&mut model);
        assert_eq!(model.params()[0][4..], [0.5; 4]);
        swap(&mut model);
        model.submit();
        assert_near(&model.params()[0], &trained);
        swap(&mut model);
        assert_near(&model.params()[0], &params);
    }
}

#[test]
fn the_iterates_of_a_new_row_start_from_its_weights() {
    let config = OptimizerConfig::new(ScheduleFreeAdamW::default());
    let (mut optimizer, mut params) = on_the_cpu(&config);
    let before = optimizer.evaluation_weights(&[params.view_mut()]).unwrap();
    assert!(before[0].iter().skip(4).all(|x| *x == 0.5), "{before:?}");
    step(&mut optimizer, &mut params);
    let after = optimizer.evaluation_weights(&[params.view_mut()]).unwrap();
    // A step of lr in the average, not a tenth of the weights.
    assert!(after[0].iter().skip(4).all(|x| (x - 0.5).abs() < 2e-3), "{after:?}");

    for zeroed in [false, true] {
        let mut model = with_a_new_row(&config, zeroed);
        let gpu = model.gpu.clone();
        let evaluated = |model: &mut Model| {
            submit(&gpu, |encoder| model.optimizer.begin_evaluation(encoder).unwrap());
            let weights = model.params().swap_remove(0);
            submit(&gpu, |encoder| model.optimizer.end_evaluation(encoder).unwrap());
            weights
        };
        model.submit();
        assert_near(&model.params()[0], &params);
        assert_near(&evaluated(&mut model), &after[0]);
    }
}

/// Adan's difference of gradients: a row that has had none before has no difference either.
#[test]
fn the_first_difference_of_a_new_row_is_zero() {
    const WIDTH: usize = 4096;
    let gpu = gpu();
    for state in [StateFormat::F32, StateFormat::Bf16, StateFormat::Q8] {
        let config = OptimizerConfig::new(Adan::default()).storage(StorageConfig { state, ..StorageConfig::default() });
        let specs = [TensorSpec::new("points", [1, WIDTH as u64])];
        let mut model = Model::new(&gpu, &config, &specs, &[vec![1.0; WIDTH]], Place::Arena);
        let mut on_cpu = CpuOptimizer::<f32>::new(&config, &specs).unwrap();
        let mut params = ArrayD::from_elem(IxDyn(&[1, WIDTH]), 1.0f32);
        let gradient = ArrayD::from_elem(IxDyn(&[2, WIDTH]), 0.25f32);
        for _ in 0..2 {
            model.step(&[vec![0.25; WIDTH]]);
            let one = gradient.slice(ndarray::s![..1, ..]).into_dyn();
            on_cpu.step(&mut [CpuTensor { params: params.view_mut(), gradient: Some(one) }]).unwrap();
        }
        let own = || Slice::new(&buffer(&gpu, 8 * WIDTH as u64), 0, 8 * WIDTH as u64);
        let tensor = Tensor::new("points", [2, WIDTH as u64], own()).with_gradient(own());
        model.optimizer.set_rows(tensor, &ROWS).unwrap();
        let bound = model.optimizer.tensors()[0].gradient.clone().unwrap();
        gpu.write(&bound, &[0.25; 2 * WIDTH]).unwrap();
        model.submit();
        on_cpu.set_rows("points", &ROWS).unwrap();
        let mut grown = ArrayD::from_elem(IxDyn(&[2, WIDTH]), 0.0f32);
        grown.slice_mut(ndarray::s![..1, ..]).assign(&params);
        on_cpu.step(&mut [CpuTensor::new(grown.view_mut(), gradient.view())]).unwrap();
        for tensor in [&model.optimizer.state_blocking().unwrap().tensors[0], &on_cpu.state().tensors[0]] {
            let slot = |name: &str| &tensor.slots.iter().find(|(own, _)| own == name).unwrap().1;
            assert!(slot("exp_avg_diff").iter().all(|x| *x == 0.0), "{state:?}");
            assert!(slot("prev_grad").iter().all(|x| *x == 0.25), "{state:?}");
        }
    }
}
