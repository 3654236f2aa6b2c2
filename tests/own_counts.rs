//! Tensors that miss steps, for want of a gradient, count by themselves.

mod support;

use ndarray::Array1;
use support::model::{Model, PLACES, Place};
use support::oracle::{Gradients, Oracle};
use support::small::{config, fresh, gradients, model, oracle, parameters, rebind, specs};
use support::{encoder, gpu};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::Adam;
use wgpu_optim::{Group, OptimizerConfig, OptimizerState, Tensor, TensorSpec};

/// PyTorch's semantics: each tensor has a count of its own, so each has an oracle of its own.
struct Alone {
    oracles: Vec<Oracle>,
    clip: Option<f64>,
}

impl Alone {
    fn new(config: &OptimizerConfig) -> Self {
        // The norm is over all tensors: taken here, in f64, and out of their hands.
        let mut config = config.clone();
        let clip = config.gradient.clip_global_norm.take();
        let one = |(spec, params): (TensorSpec, Vec<f32>)| Oracle::new(&config, &[spec], &[params]);
        Self { oracles: specs().into_iter().zip(parameters()).map(one).collect(), clip }
    }

    fn step(&mut self, gradients: &Gradients) {
        let norm = gradients.iter().flatten().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let factor = self.clip.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        for (oracle, gradient) in self.oracles.iter_mut().zip(gradients) {
            if let Some(gradient) = gradient {
                oracle.step_exact(&[Some(gradient.iter().map(|g| f64::from(*g) * factor).collect())]);
            }
        }
    }

    fn check(&self, model: &Model, what: &str) {
        let (params, state) = (model.params(), model.optimizer.state_blocking().unwrap());
        for (index, oracle) in self.oracles.iter().enumerate() {
            let tensor = state.tensors[index].clone();
            let own = OptimizerState { steps_taken: tensor.steps, tensors: vec![tensor], ..OptimizerState::default() };
            let misses = oracle.misses(&params[index..=index], &own);
            assert!(misses.is_empty(), "{what}: {}", misses.join("\n"));
        }
    }
}

/// Which tensors have a gradient: none of them for two steps, each missing at some time, one from the
/// first step on, one only once.
fn present(step: usize, tensor: usize) -> bool {
    let masks = [0b0111, 0b1111, 0b0111, 0b0101, 0b0000, 0b0000, 0b0110, 0b0001, 0b1111, 0b0011];
    masks[step % masks.len()] >> tensor & 1 == 1
}

fn some_gradients(step: usize) -> Gradients {
    gradients(step).into_iter().enumerate().map(|(t, g)| present(step, t).then_some(g)).collect()
}

#[test]
fn tensors_without_a_gradient_stay_and_count_by_themselves() {
    for place in PLACES {
        for config in [config(), config().clip_global_norm(1.0)] {
            let gpu = gpu();
            let mut model = model(&gpu, &config, place);
            let mut alone = Alone::new(&config);
            for step in 0..25 {
                let gradients = some_gradients(step);
                let before = model.bits();
                model.step_some(&gradients);
                alone.step(&gradients);
                let after = model.bits();
                for (tensor, gradient) in gradients.iter().enumerate().filter(|(_, g)| g.is_none()) {
                    assert_eq!(before[tensor], after[tensor], "{place:?} step {step} {gradient:?}");
                    // Two slots a tensor follow the parameters.
                    let slots = 4 + 2 * tensor..4 + 2 * tensor + 2;
                    assert_eq!(before[slots.clone()], after[slots], "{place:?} step {step}");
                }
                let report = model.optimizer.wait_for_report().unwrap().unwrap();
                assert_eq!(report.steps_taken, step as u64 + 1);
            }
            alone.check(&model, &format!("{place:?} {config:?}"));
            model.assert_guards();
        }
    }
}

#[test]
fn missing_gradients_hold_for_their_own_encoder_whatever_the_order() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Separate);
    let mut alone = Alone::new(&config());
    let mut encoders = Vec::new();
    let sets: Vec<_> = (0..6).map(|i| fresh(&gpu, &gradients(i), 1)).collect();
    for (step, (_, slices)) in sets.iter().enumerate() {
        for (tensor, slice) in slices.iter().enumerate() {
            let slice = present(step, tensor).then(|| slice.clone());
            model.optimizer.set_gradient(tensor, slice).unwrap();
        }
        let mut encoder = encoder(&gpu);
        model.optimizer.step(&mut encoder).unwrap();
        encoders.push(Some(encoder.finish()));
    }
    // One of them is never submitted.
    for index in [5, 1, 3, 0, 4] {
        gpu.queue().submit([encoders[index].take().unwrap()]);
        alone.step(&some_gradients(index));
    }
    drop(encoders);
    alone.check(&model, "out of order");
    for step in 6..30 {
        let gradients = some_gradients(step);
        for (tensor, gradient) in gradients.iter().enumerate() {
            let slice = gradient.as_ref().map(|_| model.gradients[tensor].clone());
            model.optimizer.set_gradient(tensor, slice).unwrap();
        }
        model.step_some(&gradients);
        alone.step(&gradients);
    }
    alone.check(&model, "and on");
}

#[test]
fn a_tensor_that_joins_late_starts_its_bias_correction_at_one() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    let mut alone = Alone::new(&config());
    let late = |step: usize| -> Gradients {
        gradients(step).into_iter().enumerate().map(|(t, g)| (t != 3 || step >= 300).then_some(g)).collect()
    };
    // More steps than a tensor's own ring has rows, 64 to a report.
    for round in 0..6 {
        for step in round * 64..round * 64 + 64 {
            model.step_some(&late(step));
            alone.step(&late(step));
        }
        model.optimizer.wait_for_report().unwrap();
    }
    alone.check(&model, "384 steps, a tensor from the 301st on");
    let state = model.optimizer.state_blocking().unwrap();
    assert_eq!(state.tensors.iter().map(|t| t.steps).collect::<Vec<_>>(), [384, 384, 384, 84]);
}

#[test]
fn an_own_count_stays_exact_far_past_its_own_ring() {
    let gpu = gpu();
    let config = OptimizerConfig::new(Adam { betas: [0.9, 0.9999], ..Adam::default() });
    let specs = [TensorSpec::new("a", [1]), TensorSpec::new("b", [1])];
    let params = [vec![0.5], vec![0.25]];
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
    let gradient = vec![0.25];
    let mut alone: Vec<_> = (0..2).map(|t| Oracle::new(&config, &specs[t..=t], &[params[t].clone()])).collect();
    for step in 0..900 {
        // b misses its first step after more than its own ring has rows.
        let b = (step % 300 != 299).then(|| gradient.clone());
        model.step_some(&[Some(gradient.clone()), b.clone()]);
        alone[0].step(&vec![Some(gradient.clone())]);
        if b.is_some() {
            alone[1].step(&vec![b]);
        }
        if step % 50 == 0 {
            model.optimizer.wait_for_report().unwrap();
        }
    }
    let (params, state) = (model.params(), model.optimizer.state_blocking().unwrap());
    for (t, oracle) in alone.iter().enumerate() {
        let tensor = state.tensors[t].clone();
        assert_eq!(tensor.steps, [900, 897][t]);
        let own = OptimizerState { steps_taken: tensor.steps, tensors: vec![tensor], ..OptimizerState::default() };
        assert_eq!(oracle.misses(&params[t..=t], &own), Vec::<String>::new());
    }
}

#[test]
fn gradients_in_fresh_buffers_at_odd_offsets_every_step() {
    let gpu = gpu();
    for place in PLACES {
        let config = config().clip_global_norm(1.0);
        let mut model = model(&gpu, &config, place);
        let mut oracle = oracle(&config);
        for step in 0..40 {
            let (packed, slices) = fresh(&gpu, &gradients(step), step % 16);
            rebind(&mut model.optimizer, &slices);
            model.submit();
            oracle.step_all(&gradients(step));
            assert!(packed.broken_guards(&gpu).is_empty(), "{place:?} step {step}");
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
        model.assert_guards();
    }
}

/// On both backends, through whatever comes in between.
#[test]
fn tensors_that_never_had_a_gradient_are_told() {
    let config = config().group(Group::matching("layer3.*").frozen());
    let gpu = gpu();
    let mut model = model(&gpu, &config, Place::Arena);
    let mut on_cpu = CpuOptimizer::<f32>::new(&config, &specs()).unwrap();
    let mut params: Vec<_> = parameters().into_iter().map(|p| Array1::from(p).into_dyn()).collect();
    let mut step = |model: &mut Model, on_cpu: &mut CpuOptimizer<f32>, present: &[bool]| {
        let gradients: Gradients =
            gradients(1).into_iter().zip(present).map(|(g, present)| present.then_some(g)).collect();
        model.step_some(&gradients);
        let arrays: Vec<_> = gradients.iter().map(|g| g.clone().map(|g| Array1::from(g).into_dyn())).collect();
        let mut tensors: Vec<_> = params
            .iter_mut()
            .zip(&arrays)
            .map(|(params, gradient)| CpuTensor {
                params: params.view_mut(),
                gradient: gradient.as_ref().map(|g| g.view()),
            })
            .collect();
        let reports = [model.optimizer.wait_for_report().unwrap().unwrap(), on_cpu.step(&mut tensors).unwrap()];
        reports.map(|report| report.without_gradient)
    };
    let named = |model: &Model, on_cpu: &CpuOptimizer<f32>| -> [Vec<String>; 2] {
        let of = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
        [of(&mut model.optimizer.tensors_without_gradient()), of(&mut on_cpu.tensors_without_gradient())]
    };
    let both = |names: &[&str]| [0, 1].map(|_| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    let [first, second, third] = ["layer0.weight", "layer1.weight", "layer2.weight"];
    assert_eq!(named(&model, &on_cpu), both(&[first, second, third]));
    assert_eq!(step(&mut model, &mut on_cpu, &[true, false, false, true]), [2; 2]);
    assert_eq!(named(&model, &on_cpu), both(&[second, third]));
    // Nothing that is forgotten in one step was forgotten for ever.
    assert_eq!(step(&mut model, &mut on_cpu, &[false, false, true, false]), [1; 2]);
    assert_eq!(named(&model, &on_cpu), both(&[second]));

    let state = model.optimizer.state_blocking().unwrap();
    let spec = TensorSpec::new("late", [1]);
    let late = Tensor::new("late", [1], &support::model::buffer(&gpu, 4));
    model.optimizer.add_tensors([late]).unwrap();
    on_cpu.add_tensors([spec]).unwrap();
    assert_eq!(named(&model, &on_cpu), both(&[second, "late"]));
    model.optimizer.remove_tensors(&["late"]).unwrap();
    on_cpu.remove_tensors(&["late"]).unwrap();
    assert_eq!(named(&model, &on_cpu), both(&[second]));
    assert_eq!(step(&mut model, &mut on_cpu, &[false, true, false, false]), [0; 2]);
    assert_eq!(named(&model, &on_cpu), both(&[]));
    model.optimizer.load_state(&state).unwrap();
    on_cpu.load_state(&state).unwrap();
    assert_eq!(named(&model, &on_cpu), both(&[second]), "of the run whose state was loaded");
}

/// More stretches of them than are marked by a copy each.
#[test]
fn many_absent_tensors_among_others_stay() {
    let gpu = gpu();
    let specs: Vec<_> = (0..60).map(|t| TensorSpec::new(format!("t{t}"), [3])).collect();
    let params = vec![vec![1.0; 3]; 60];
    let mut model = Model::new(&gpu, &config().clip_global_norm(1.0), &specs, &params, Place::Arena);
    let mut expected = vec![0; 60];
    for every in [2, 3, 2, 60, 1, 7] {
        let present = |t: usize| t.is_multiple_of(every);
        let gradients: Gradients = (0..60).map(|t| present(t).then(|| vec![1.0; 3])).collect();
        let before = model.params();
        model.step_some(&gradients);
        let after = model.params();
        for t in 0..60 {
            assert_eq!(before[t] != after[t], present(t), "tensor {t}, every {every}");
            expected[t] += u64::from(present(t));
        }
    }
    let counts: Vec<_> = model.optimizer.state_blocking().unwrap().tensors.iter().map(|t| t.steps).collect();
    assert_eq!(counts, expected);
}
