//! The bridge beside Burn's own optimizer, on Burn's wgpu device.

#[path = "../examples/side_by_side/main.rs"]
mod side_by_side;

use std::sync::OnceLock;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use side_by_side::spirals::{Network, Spirals};
use wgpu_optim::{Gpu, OptimizerConfig, rules::Sgd};
use wgpu_optim_burn::{Optimizer, adamw};

fn open() -> &'static (Device, Gpu) {
    static OPENED: OnceLock<(Device, Gpu)> = OnceLock::new();
    OPENED.get_or_init(|| wgpu_optim_burn::open().unwrap_or_else(|e| panic!("these tests need a GPU adapter: {e}")))
}

/// All values of a module.
fn values(module: &Network) -> Vec<Vec<f32>> {
    struct Values(Vec<Vec<f32>>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.val().into_data().try_to_vec().unwrap());
        }
    }
    let mut visitor = Values(Vec::new());
    module.visit(&mut visitor);
    visitor.0
}

fn gradients(model: &Network, data: &Spirals) -> GradientsParams {
    GradientsParams::from_grads(data.loss(model).backward(), model)
}

#[test]
fn losses_are_those_of_burns_adamw() {
    let (device, gpu) = open();
    let (burns, ours) = side_by_side::run(device, gpu, 60).unwrap();
    assert!(burns[59] < 0.9 * burns[0], "{burns:?}");
    for (step, (burn, our)) in burns.iter().zip(&ours).enumerate() {
        // Burn computes bias corrections in f32, of a β₂ that is off by 1e-8 of 1e-3: 1e-5 of a step.
        assert!((burn - our).abs() < 1e-4 * burn, "step {step}: {burn} and {our}");
    }
}

#[test]
fn parameters_stay_in_burns_buffers_and_clones_stay_as_they_were() {
    let (device, gpu) = open();
    let device = device.clone().autodiff();
    let data = Spirals::new(50, &device);
    let mut model = Network::new(&device);
    let mut optimizer = Optimizer::new(gpu, adamw(&AdamWConfig::new()).unwrap());
    for _ in 0..5 {
        let gradients = gradients(&model, &data);
        model = optimizer.step(0.01, model, gradients).unwrap();
    }
    assert_eq!(optimizer.moves(), 1);

    let (snapshot, before) = (model.clone(), values(&model));
    let old = gradients(&model, &data);
    model = optimizer.step(0.01, model, old).unwrap();
    assert_eq!(optimizer.moves(), 2);
    assert_eq!(values(&snapshot), before);
    assert_ne!(values(&model), before);
    // The count of steps and the moments went along.
    let report = optimizer.engine().unwrap().wait_for_report().unwrap().unwrap();
    assert_eq!(report.steps_taken, 6);
    drop(snapshot);
    let gradients = gradients(&model, &data);
    optimizer.step(0.01, model, gradients).unwrap();
    assert_eq!(optimizer.moves(), 2);
}

#[test]
fn the_global_norm_is_that_of_all_gradients() {
    let (device, gpu) = open();
    let device = device.clone().autodiff();
    let data = Spirals::new(50, &device);
    let model = Network::new(&device);
    let before = values(&model);
    let config = OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() }).clip_global_norm(1e-3);
    let mut optimizer = Optimizer::new(gpu, config);
    let gradients = gradients(&model, &data);
    let model = optimizer.step(1.0, model, gradients).unwrap();
    let moved = values(&model).into_iter().flatten().zip(before.into_iter().flatten());
    let norm = moved.map(|(after, before)| f64::from(after - before).powi(2)).sum::<f64>().sqrt();
    // PyTorch adds 1e-6 to the norm that it divides by, and a parameter near 0.5 is rounded at 3e-8.
    assert!((norm - 1e-3).abs() < 1e-5, "{norm}");
    assert!(optimizer.engine().unwrap().wait_for_report().unwrap().unwrap().global_norm.unwrap() > 1e-3);
}

/// A step that is refused costs nothing but itself: module, engine and state go on as if it had not been asked for.
#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let (device, gpu) = open();
    let device = device.clone().autodiff();
    let data = Spirals::new(50, &device);
    let model = Network::new(&device);
    let config = adamw(&AdamWConfig::new()).unwrap();
    let refused = |optimizer: &mut Optimizer, lr: f64, model: Network, why: &str| -> Network {
        let before = values(&model);
        let gradients = gradients(&model, &data);
        let refused = optimizer.step(lr, model, gradients).expect_err(why);
        assert!(refused.to_string().contains(why), "{refused}");
        assert_eq!(values(&refused.module), before, "{why}");
        refused.module
    };
    let step = |optimizer: &mut Optimizer, model: Network| -> Network {
        let gradients = gradients(&model, &data);
        optimizer.step(0.01, model, gradients).unwrap()
    };
    let copy = |model: &Network| -> Network {
        let record = model.clone().map(&mut Copies);
        assert_eq!(values(&record), values(model));
        record
    };

    let mut straight = copy(&model);
    let mut plain = Optimizer::new(gpu, config.clone());
    for _ in 0..3 {
        straight = step(&mut plain, straight);
    }

    let mut model = copy(&model);
    let mut optimizer = Optimizer::new(gpu, config);
    // Before there is a state, and after.
    for _ in 0..3 {
        model = refused(&mut optimizer, f64::NAN, model, "lr");
        model = refused(&mut optimizer, -1.0, model, "lr");
        model = step(&mut optimizer, model);
        let mut recorded = gpu.device().create_command_encoder(&Default::default());
        let engine = optimizer.engine().expect("an engine");
        while engine.step(&mut recorded).is_ok() {}
        model = refused(&mut optimizer, 0.01, model, "step table");
        drop(recorded);
    }
    let pairs = values(&model).into_iter().flatten().zip(values(&straight).into_iter().flatten());
    let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // A step moves a weight by up to 1e-2.
    assert!(apart < 1e-5, "{apart}");
    assert_eq!(optimizer.moves(), 1);
    assert_eq!(optimizer.engine().unwrap().wait_for_report().unwrap().unwrap().steps_taken, 3);

    // A configuration that the module does not fit.
    let missing = OptimizerConfig::new(Sgd::default()).group(wgpu_optim::Group::matching("no.such.*"));
    refused(&mut Optimizer::new(gpu, missing), 0.01, model, "no.such");
}

/// Every parameter in memory of its own.
struct Copies;

impl ModuleMapper for Copies {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let data = tensor.clone().inner().into_data();
        let copy: Tensor<D> = Tensor::from_data(data, &tensor.inner().device());
        let copy = Tensor::from_inner(copy);
        Param::from_mapped_value(id, copy.require_grad(), mapper)
    }
}
