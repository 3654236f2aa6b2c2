//! Weights to evaluate with, on the GPU against the oracle: the moving average, and the averaged iterates
//! of schedule-free rules.

mod support;

use ndarray::Array1;
use support::model::{Model, Place};
use support::oracle::Oracle;
use support::watched::Watched;
use support::{Numbers, arena, encoder, gpu, refuse, relative_error, submit, wide};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{AdamW, ScheduleFreeAdamW};
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{
    Arena, EmaConfig, Error, Format, Optimizer, OptimizerConfig, Rounding, Schedule, StorageConfig, TensorSpec,
};

const SIZE: usize = 5003;

fn setup(ema: EmaConfig) -> (OptimizerConfig, Vec<TensorSpec>, Vec<f32>) {
    let config = OptimizerConfig::new(AdamW { lr: 0.05, ..AdamW::default() }).ema(ema);
    (config, vec![TensorSpec::new("w", [SIZE as u64])], Numbers::new(1).take(SIZE))
}

/// Averages are sums of 30 rounded weights: far below 1e-6 of their norm.
fn check(ema: EmaConfig) {
    let (config, specs, start) = setup(ema);
    let gpu = gpu();
    let arena = arena(&gpu, &specs, std::slice::from_ref(&start));
    let mut on_gpu = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
    let mut oracle = CpuOptimizer::<f64>::new(&config, &specs).unwrap();
    let mut w = Array1::from(wide(&start)).into_dyn();
    let mut numbers = Numbers::new(2);
    for _ in 0..30 {
        let gradient = numbers.take(SIZE);
        arena.write_gradient("w", &gradient).unwrap();
        submit(&gpu, |encoder| on_gpu.step(encoder).unwrap());
        let g = Array1::from(wide(&gradient)).into_dyn();
        oracle.step(&mut [CpuTensor::new(w.view_mut(), g.view())]).unwrap();
    }
    let find = |slots: &[(String, Vec<f64>)]| slots.iter().find(|(n, _)| n == "ema").unwrap().1.clone();
    let expected = find(&oracle.state().tensors[0].slots);
    let found: Vec<_> =
        on_gpu.state_blocking().unwrap().tensors[0].slots.iter().map(|(n, v)| (n.clone(), wide(v))).collect();
    let error = relative_error(&find(&found), &expected);
    assert!(error < 1e-6, "{error:e}");
    // The average lags, so it is not the weights themselves.
    assert!(relative_error(&expected, w.as_slice().unwrap()) > 1e-3);

    // In place of the weights, and back.
    let weights = w.clone();
    oracle.swap_ema(&mut [w.view_mut()]).unwrap();
    assert_eq!(w.as_slice().unwrap(), expected);
    oracle.swap_ema(&mut [w.view_mut()]).unwrap();
    assert_eq!(w, weights);
}

#[test]
fn average_follows_the_oracle() {
    check(EmaConfig { decay: 0.9, ..EmaConfig::default() });
}

#[test]
fn warm_up_and_interval_follow_the_oracle() {
    check(EmaConfig { decay: 0.95, warmup: true, interval: 3 });
}

#[test]
fn swapping_twice_changes_nothing_and_once_gives_the_average() {
    let (config, specs, start) = setup(EmaConfig { decay: 0.9, ..EmaConfig::default() });
    let gpu = gpu();
    let arena = arena(&gpu, &specs, std::slice::from_ref(&start));
    let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
    // Before the first step there is no average, and the weights stay.
    submit(&gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
    assert_eq!(optimizer.params_blocking().unwrap()[0], start);
    submit(&gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
    for _ in 0..3 {
        arena.write_gradient("w", &Numbers::new(5).take(SIZE)).unwrap();
        submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    }
    let weights = optimizer.params_blocking().unwrap();
    let state = optimizer.state_blocking().unwrap();
    submit(&gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
    let slots = &state.tensors[0].slots;
    assert_eq!(optimizer.params_blocking().unwrap()[0], slots.iter().find(|(n, _)| n == "ema").unwrap().1);
    submit(&gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
    assert_eq!(optimizer.params_blocking().unwrap(), weights);
    assert_eq!(optimizer.state_blocking().unwrap(), state);
}

#[test]
fn swapping_without_an_average_is_an_error() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [4])];
    let arena = arena(&gpu, &specs, &[vec![0.0; 4]]);
    let config = OptimizerConfig::new(AdamW::default());
    let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
    let error = optimizer.swap_ema(&mut support::encoder(&gpu)).unwrap_err();
    let of_call = |error: &Error, name: &str| matches!(error, Error::Call { call, .. } if call == name);
    assert!(of_call(&error, "swap_ema"), "{error}");
    let error_of_gpu = error;
    let error = optimizer.begin_evaluation(&mut support::encoder(&gpu)).unwrap_err();
    assert!(error.to_string().contains("no rule averages"), "{error}");
    let mut on_cpu = CpuOptimizer::<f32>::new(&config, &specs).unwrap();
    let mut w = Array1::<f32>::zeros(4).into_dyn();
    assert_eq!(on_cpu.swap_ema(&mut [w.view_mut()]).unwrap_err(), error_of_gpu);
    // Where nothing averages, the weights are those to evaluate with.
    assert_eq!(on_cpu.evaluation_weights(&[w.view_mut()]).unwrap()[0], w);
}

fn schedule_free() -> OptimizerConfig {
    OptimizerConfig::new(ScheduleFreeAdamW { lr: 0.05, weight_decay: 0.1, warmup_steps: 4, ..Default::default() })
}

/// Shares follow the rates as they were, by tensor: with a schedule, a rate set on the way, and a tensor
/// that joins late and misses steps.
#[test]
fn shares_of_schedule_free_steps_follow_the_rates_and_each_tensor() {
    let gpu = gpu();
    let specs = [TensorSpec::new("a", [300]), TensorSpec::new("b", [31, 5])];
    let params: Vec<_> = [300, 155].map(|n| Numbers::new(n).take(n as usize)).to_vec();
    let schedule = Schedule::from(Cosine { total_steps: 30, min_lr: 0.0 });
    let config = schedule_free().schedule(schedule);
    let mut oracle = Oracle::new(&config, &specs, &params);
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
    let mut numbers = Numbers::new(9);
    for step in 0..20 {
        let late = (5..8).contains(&step) || step > 11;
        let gradients = vec![Some(numbers.take(300)), late.then(|| numbers.take(155))];
        if step == 10 {
            oracle.set(|rates| rates.set_lr(0.2));
            model.optimizer.set_lr(0.2).unwrap();
        }
        oracle.step(&gradients);
        model.step_some(&gradients);
        // One step at a time, so that the rate that was set acts on the same step.
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "schedule-free");
    let state = model.optimizer.state_blocking().unwrap();
    let expected = oracle.exact.optimizer.state();
    for (got, want) in state.tensors.iter().zip(&expected.tensors) {
        // A sum of at most 20 squares in f32, each rounded a few times.
        assert!((got.weight_sum / want.weight_sum - 1.0).abs() < 1e-5, "{} {}", got.weight_sum, want.weight_sum);
    }
    assert_ne!(expected.tensors[0].weight_sum, expected.tensors[1].weight_sum);
}

#[test]
fn an_evaluation_of_averaged_iterates_ends_before_the_next_step() {
    let gpu = gpu();
    let specs = [TensorSpec::new("w", [700]), TensorSpec::new("new", [3])];
    let params: Vec<_> = [700, 3].map(|n| Numbers::new(n).take(n as usize)).to_vec();
    let mut model = Model::new(&gpu, &schedule_free(), &specs, &params, Place::TwoBuffers);
    for step in 0..5 {
        model.step_some(&[Some(Numbers::new(step).take(700)), None]);
    }
    // Bound, so that the evaluation reaches it, but without a step so far.
    model.optimizer.set_gradient(1, Some(model.gradients[1].clone())).unwrap();
    let training = model.params();
    let optimizer = &mut model.optimizer;
    assert!(optimizer.end_evaluation(&mut support::encoder(&gpu)).is_err());
    submit(&gpu, |encoder| optimizer.begin_evaluation(encoder).unwrap());
    for error in [
        optimizer.begin_evaluation(&mut support::encoder(&gpu)).unwrap_err(),
        optimizer.step(&mut support::encoder(&gpu)).unwrap_err(),
    ] {
        assert!(error.to_string().contains("end_evaluation first"), "{error}");
    }
    let evaluated = optimizer.params_blocking().unwrap();
    let moved = relative_error(&wide(&evaluated[0]), &wide(&training[0]));
    assert!(moved > 1e-3, "{moved}");
    assert_eq!(evaluated[1], training[1]);
    submit(&gpu, |encoder| optimizer.end_evaluation(encoder).unwrap());
    assert_eq!(model.params(), training);
    model.assert_guards();
}

/// Whatever an evaluation needs of the last step is there without one: after a load, and after a change of tensors.
#[test]
fn an_evaluation_before_the_first_step_of_a_resumed_run_is_that_of_the_run() {
    let gpu = gpu();
    let specs = [TensorSpec::new("a", [4099]), TensorSpec::new("late", [70])];
    let params: Vec<_> = [4099, 70].map(|n| Numbers::new(n).take(n as usize)).to_vec();
    let rounded = StorageConfig { params: Format::Bf16, rounding: Rounding::Stochastic, ..StorageConfig::default() };
    for storage in [StorageConfig::default(), rounded] {
        let config = schedule_free().storage(storage);
        let model = || Model::new(&gpu, &config, &specs, &params, Place::Arena);
        let mut run = model();
        for step in 0..6 {
            // The second follows a count of its own.
            run.step_some(&[Some(Numbers::new(step).take(4099)), (step > 3).then(|| Numbers::new(step).take(70))]);
        }
        let checkpoint = run.optimizer.checkpoint_blocking().unwrap();
        let evaluated = |model: &mut Model| {
            let optimizer = &mut model.optimizer;
            submit(&gpu, |encoder| optimizer.begin_evaluation(encoder).unwrap());
            let weights = model.params();
            let optimizer = &mut model.optimizer;
            submit(&gpu, |encoder| optimizer.end_evaluation(encoder).unwrap());
            weights
        };
        let expected = evaluated(&mut run);
        assert!(expected.iter().flatten().all(|x| x.is_finite()));

        let mut resumed = model();
        resumed.optimizer.load_checkpoint(&checkpoint).unwrap();
        assert_eq!(evaluated(&mut resumed), expected, "after a load");
        let spec = TensorSpec::new("new", [5]);
        let more = Arena::for_config(&gpu, &config, [spec]).unwrap();
        run.optimizer.add_tensors(more.tensors().to_vec()).unwrap();
        assert_eq!(evaluated(&mut run)[..2], expected, "after a change of tensors");
    }
}

fn evaluated() -> (Model, Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let specs = [TensorSpec::new("w", [4099]), TensorSpec::new("v", [31])];
    let params: Vec<_> = [4099, 31].map(|n| Numbers::new(n).take(n as usize)).to_vec();
    let mut model = Model::new(&Watched::own().gpu, &schedule_free(), &specs, &params, Place::OneBuffer);
    (0..3).for_each(|step| model.step(&[Numbers::new(step).take(4099), Numbers::new(step).take(31)]));
    let training = model.params();
    begin(&mut model);
    let average = model.params();
    end(&mut model);
    assert_ne!(training, average);
    (model, training, average)
}

fn begin(model: &mut Model) {
    submit(&model.gpu, |encoder| model.optimizer.begin_evaluation(encoder).unwrap());
}

fn end(model: &mut Model) {
    submit(&model.gpu, |encoder| model.optimizer.end_evaluation(encoder).unwrap());
}

/// A step, and that it was taken.
fn assert_trains(model: &mut Model) {
    let steps = model.optimizer.wait_for_report().unwrap().unwrap().steps_taken;
    model.submit();
    assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_taken, steps + 1);
    model.assert_guards();
}

#[test]
fn an_evaluation_whose_beginning_was_dropped_has_not_begun() {
    let (mut model, training, _) = evaluated();
    let mut dropped = encoder(&model.gpu);
    model.optimizer.begin_evaluation(&mut dropped).unwrap();
    drop(dropped);
    assert!(model.optimizer.end_evaluation(&mut encoder(&model.gpu)).is_err());
    // Its end recorded before it was dropped, and submitted.
    let [mut first, mut second] = [encoder(&model.gpu), encoder(&model.gpu)];
    model.optimizer.begin_evaluation(&mut first).unwrap();
    model.optimizer.end_evaluation(&mut second).unwrap();
    drop(first);
    model.gpu.queue().submit([second.finish()]);
    assert_eq!(model.params(), training);
    assert_trains(&mut model);
}

#[test]
fn weights_to_train_with_come_back_although_the_end_was_dropped() {
    let (mut model, training, average) = evaluated();
    begin(&mut model);
    let mut dropped = encoder(&model.gpu);
    model.optimizer.end_evaluation(&mut dropped).unwrap();
    // Recorded in the belief that the evaluation has ended, and run while it has not.
    let mut early = encoder(&model.gpu);
    model.optimizer.step(&mut early).unwrap();
    drop(dropped);
    model.gpu.queue().submit([early.finish()]);
    assert_eq!(model.params(), average);
    let error = model.optimizer.step(&mut encoder(&model.gpu)).unwrap_err();
    assert!(error.to_string().contains("end_evaluation first"), "{error}");
    end(&mut model);
    assert_eq!(model.params(), training);
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((report.steps_taken, report.steps_skipped, report.skipped), (3, 1, true));
    assert_trains(&mut model);
}

#[test]
fn an_evaluation_that_the_device_refused_harms_nothing() {
    let (mut model, training, average) = evaluated();
    let mut refused = encoder(&model.gpu);
    model.optimizer.begin_evaluation(&mut refused).unwrap();
    refuse(&model.gpu, refused);
    assert_eq!(model.optimizer.checkpoint_blocking().unwrap().params.unwrap()[0].values, training[0]);
    end(&mut model);
    assert_eq!(model.params(), training);
    // A wait tells.
    let mut refused = encoder(&model.gpu);
    model.optimizer.begin_evaluation(&mut refused).unwrap();
    refuse(&model.gpu, refused);
    assert_trains(&mut model);

    let (mut model, ..) = (model, training);
    let training = model.params();
    begin(&mut model);
    let mut refused = encoder(&model.gpu);
    model.optimizer.end_evaluation(&mut refused).unwrap();
    refuse(&model.gpu, refused);
    model.optimizer.wait_for_report().unwrap();
    assert_ne!(model.params(), training);
    assert_ne!(model.params(), average);
    end(&mut model);
    assert_eq!(model.params(), training);
    assert_trains(&mut model);
}

#[test]
fn a_checkpoint_holds_the_weights_to_train_with_whenever_it_is_taken() {
    let (mut model, training, average) = evaluated();
    let saved = |model: &Model| -> Vec<_> {
        let params = model.optimizer.checkpoint_blocking().unwrap().params.unwrap();
        params.into_iter().map(|tensor| tensor.values).collect()
    };
    let mut recorded = encoder(&model.gpu);
    model.optimizer.begin_evaluation(&mut recorded).unwrap();
    assert_eq!(saved(&model), training, "begun, not submitted");
    model.gpu.queue().submit([recorded.finish()]);
    assert_eq!(saved(&model), training, "submitted");
    let mut recorded = encoder(&model.gpu);
    model.optimizer.end_evaluation(&mut recorded).unwrap();
    assert_eq!(model.params(), average);
    assert_eq!(saved(&model), training, "ended, not submitted");
    // A state that is loaded meanwhile does not touch the evaluation.
    let state = model.optimizer.state_blocking().unwrap();
    model.optimizer.load_state(&state).unwrap();
    model.gpu.queue().submit([recorded.finish()]);
    assert_eq!((saved(&model), model.params()), (training.clone(), training));
}

#[test]
fn what_is_recorded_and_not_submitted_holds_changes_of_tensors_back() {
    let (mut model, ..) = evaluated();
    let gpu = model.gpu.clone();
    let more = |name: &str| {
        let arena = Arena::new(&gpu, [TensorSpec::new(name, [5])]).unwrap();
        arena.tensors().to_vec()
    };
    type Record = fn(&mut Optimizer, &mut wgpu_optim::wgpu::CommandEncoder);
    let records: [Record; 2] = [
        |optimizer, encoder| optimizer.zero_rows(encoder, "w", &[1]).unwrap(),
        |optimizer, encoder| {
            optimizer.begin_evaluation(encoder).unwrap();
            optimizer.end_evaluation(encoder).unwrap();
        },
    ];
    for (index, record) in records.into_iter().enumerate() {
        for submitted in [false, true] {
            let mut recorded = encoder(&gpu);
            record(&mut model.optimizer, &mut recorded);
            let name = format!("{index} {submitted}");
            let error = model.optimizer.add_tensors(more(&name)).unwrap_err();
            assert!(matches!(error, Error::StepsUnderWay { pending: 1 | 2 }), "{error}");
            if submitted {
                gpu.queue().submit([recorded.finish()]);
            } else {
                drop(recorded);
            }
            model.optimizer.add_tensors(more(&name)).unwrap();
        }
    }
}

#[test]
fn there_is_no_training_on_the_average_and_no_average_left_behind() {
    let specs = [TensorSpec::new("w", [4099]), TensorSpec::new("v", [31])];
    let params: Vec<_> = [4099, 31].map(|n| Numbers::new(n).take(n as usize)).to_vec();
    let gpu = gpu();
    let ema = EmaConfig { decay: 0.5, ..EmaConfig::default() };
    let config = OptimizerConfig::new(AdamW { lr: 0.05, ..AdamW::default() }).ema(ema);
    for place in [Place::Arena, Place::OneBuffer] {
        let mut model = Model::new(&gpu, &config, &specs, &params, place);
        let mut oracle = Oracle::new(&config, &specs, &params);
        let gradients = |step: u64| [4099, 31].map(|n| Numbers::new(50 + step).take(n)).to_vec();
        for step in 0..3 {
            model.step(&gradients(step));
            oracle.step_all(&gradients(step));
        }
        let (training, state) = (model.params(), model.optimizer.state_blocking().unwrap());
        let average = |t: usize| state.tensors[t].slots.iter().find(|(n, _)| n == "ema").unwrap().1.clone();
        // Without a gradient, a tensor is exchanged like any other.
        model.optimizer.set_gradient(1, None).unwrap();
        submit(&gpu, |encoder| model.optimizer.swap_ema(encoder).unwrap());
        assert_eq!(model.params(), [average(0), average(1)], "{place:?}");
        model.optimizer.set_gradient(1, Some(model.gradients[1].clone())).unwrap();
        model.optimizer.set_gradient(0, None).unwrap();
        let arena = Arena::new(&gpu, [TensorSpec::new("late", [5])]).unwrap();
        for error in [
            model.optimizer.step(&mut encoder(&gpu)).unwrap_err(),
            model.optimizer.zero_rows(&mut encoder(&gpu), "w", &[0]).unwrap_err(),
            model.optimizer.checkpoint_blocking().unwrap_err(),
            model.optimizer.record_state(&mut encoder(&gpu)).unwrap_err(),
            model.optimizer.load_state(&state).unwrap_err(),
            model.optimizer.add_tensors(arena.tensors().to_vec()).unwrap_err(),
        ] {
            assert!(error.to_string().contains("swap_ema once more"), "{error}");
        }
        // Dropped: the average is still there, and known to be.
        model.optimizer.swap_ema(&mut encoder(&gpu)).unwrap();
        assert!(model.optimizer.step(&mut encoder(&gpu)).is_err());
        submit(&gpu, |encoder| model.optimizer.swap_ema(encoder).unwrap());
        assert_eq!((model.params(), model.optimizer.state_blocking().unwrap()), (training, state));
        model.optimizer.set_gradient(0, Some(model.gradients[0].clone())).unwrap();
        model.step(&gradients(3));
        oracle.step_all(&gradients(3));
        oracle.check(&model.optimizer, "trained on after two exchanges");
        model.assert_guards();
    }
    let mut on_cpu = CpuOptimizer::<f32>::new(&config, &[TensorSpec::new("w", [4])]).unwrap();
    let (mut w, g) = (Array1::<f32>::ones(4).into_dyn(), Array1::<f32>::ones(4).into_dyn());
    on_cpu.step(&mut [CpuTensor::new(w.view_mut(), g.view())]).unwrap();
    on_cpu.swap_ema(&mut [w.view_mut()]).unwrap();
    let error = on_cpu.step(&mut [CpuTensor::new(w.view_mut(), g.view())]).unwrap_err();
    assert!(error.to_string().contains("swap_ema once more"), "{error}");
    assert!(on_cpu.load_state(&on_cpu.state()).is_err());
    on_cpu.swap_ema(&mut [w.view_mut()]).unwrap();
    on_cpu.step(&mut [CpuTensor::new(w.view_mut(), g.view())]).unwrap();
}
