//! Steps are recorded, not run: what the caller does with its encoders, and how counts and reports follow the steps
//! that the device really took.

mod support;

use std::time::{Duration, Instant};

use support::model::{Model, PLACES, Place, buffer};
use support::small::{config, fresh, gradients, model, oracle, rebind, tiny};
use support::watched::Watched;
use support::{Numbers, encoder, gpu, own_gpu, refuse, submit};
use wgpu_optim::gpu::STEP_ROWS;
use wgpu_optim::{Error, HealthConfig, Slice, TensorSpec};

#[test]
fn a_step_is_recorded_and_nothing_is_submitted() {
    for place in PLACES {
        let gpu = gpu();
        let mut model = model(&gpu, &config(), place);
        model.write_gradients(&gradients(0));
        let before = model.bits();
        let mut encoder = encoder(&gpu);
        model.optimizer.step(&mut encoder).unwrap();
        // Reading back submits and waits: a step that had run would show.
        assert_eq!(model.bits(), before, "{place:?}");
        gpu.queue().submit([encoder.finish()]);
        assert_ne!(model.bits(), before, "{place:?}");
    }
}

#[test]
fn the_second_step_creates_no_object() {
    for place in PLACES {
        for config in [config(), config().clip_global_norm(1.0)] {
            // Others count on the shared device.
            let gpu = own_gpu();
            let mut model = model(&gpu, &config, place);
            model.step(&gradients(0));
            let created = gpu.objects_created();
            assert!(created.pipelines > 0 && created.bind_groups > 0 && created.buffers > 0, "{created:?}");
            for step in 1..20 {
                model.step(&gradients(step));
                model.optimizer.report().unwrap();
                assert_eq!(gpu.objects_created(), created, "{place:?} step {step}");
            }
        }
    }
}

#[test]
fn rebinding_gradients_among_buffers_seen_before_creates_no_object() {
    let gpu = own_gpu();
    let mut model = model(&gpu, &config(), Place::Separate);
    let sets: Vec<_> = (0..3).map(|i| fresh(&gpu, &gradients(i), i)).collect();
    let mut oracle = oracle(&config());
    let mut created = None;
    for step in 0..30 {
        rebind(&mut model.optimizer, &sets[step % 3].1);
        model.submit();
        oracle.step_all(&gradients(step % 3));
        match created {
            None if step == 2 => created = Some(gpu.objects_created()),
            None => {}
            Some(created) => assert_eq!(gpu.objects_created(), created, "step {step}"),
        }
    }
    oracle.check(&model.optimizer, "thirty steps over three buffers");
}

#[test]
fn gradient_buffers_that_the_caller_dropped_are_let_go() {
    const LEN: usize = 1 << 20;
    let gpu = own_gpu();
    let specs = [TensorSpec::new("w", [LEN as u64])];
    let mut model = Model::new(&gpu, &config(), &specs, &[vec![0.5; LEN]], Place::Separate);
    let allocated = || gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    let Some(before) = allocated() else {
        eprintln!("not checked: this backend does not report its allocations");
        return;
    };
    let mut most = 0;
    for _ in 0..60 {
        let own = buffer(&gpu, 4 * LEN as u64);
        model.optimizer.set_gradient(0, Some(Slice::from(&own))).unwrap();
        model.submit();
        model.optimizer.wait_for_report().unwrap();
        most = most.max(allocated().unwrap().saturating_sub(before));
    }
    // The present binding's alone.
    assert!(most <= 4 * LEN as u64 + 4096, "{most} bytes");

    // And those that it went round among, once it uses others.
    let sets: Vec<_> = (0..3).map(|_| buffer(&gpu, 4 * LEN as u64)).collect();
    for step in 0..9 {
        model.optimizer.set_gradient(0, Some(Slice::from(&sets[step % 3]))).unwrap();
        model.submit();
    }
    drop(sets);
    for _ in 0..3 {
        let own = buffer(&gpu, 4 * LEN as u64);
        model.optimizer.set_gradient(0, Some(Slice::from(&own))).unwrap();
        model.submit();
        model.optimizer.wait_for_report().unwrap();
    }
    let left = allocated().unwrap().saturating_sub(before);
    assert!(left <= 4 * LEN as u64 + 4096, "{left} bytes");
}

#[test]
fn large_gradients_that_take_turns_create_no_object_once_they_have_come_back() {
    const LEN: usize = 1 << 19;
    let gpu = own_gpu();
    let specs = [TensorSpec::new("w", [LEN as u64]), TensorSpec::new("v", [3])];
    let params = [vec![0.5; LEN], vec![0.5; 3]];
    for sets in 2..5 {
        let mut model = Model::new(&gpu, &config(), &specs, &params, Place::Separate);
        let turns: Vec<_> = (0..sets).map(|_| buffer(&gpu, 4 * LEN as u64)).collect();
        let mut created = None;
        for step in 0..5 * sets {
            model.optimizer.set_gradient(0, Some(Slice::from(&turns[step % sets]))).unwrap();
            model.submit();
            if step >= 2 * sets {
                let now = gpu.objects_created();
                assert_eq!(*created.get_or_insert(now), now, "{sets} sets, step {step}");
            }
        }
    }
}

#[test]
fn steps_in_one_encoder_equal_steps_in_their_own_bit_for_bit() {
    let gpu = gpu();
    let config = config().clip_global_norm(1.0);
    for place in PLACES {
        let sets: Vec<_> = (0..5).map(|i| fresh(&gpu, &gradients(i), 1)).collect();
        let mut apart = model(&gpu, &config, place);
        for (_, slices) in &sets {
            rebind(&mut apart.optimizer, slices);
            apart.submit();
        }
        let mut together = model(&gpu, &config, place);
        submit(&gpu, |encoder| {
            for (_, slices) in &sets {
                rebind(&mut together.optimizer, slices);
                together.optimizer.step(encoder).unwrap();
            }
        });
        assert_eq!(apart.bits(), together.bits(), "{place:?}");
        let mut oracle = oracle(&config);
        for i in 0..5 {
            oracle.step_all(&gradients(i));
        }
        oracle.check(&together.optimizer, "five steps in one encoder");
    }
}

#[test]
fn ten_runs_give_the_same_bits() {
    let gpu = gpu();
    let config = config().clip_global_norm(0.5);
    let specs = [TensorSpec::new("large", [300_001]), TensorSpec::new("small", [5])];
    let mut numbers = Numbers::new(3);
    let mut draw = || vec![numbers.take(300_001), numbers.take(5)];
    let (params, gradients) = (draw(), [draw(), draw(), draw()]);
    let run = || {
        let mut model = Model::new(&gpu, &config, &specs, &params, Place::TwoBuffers);
        gradients.iter().for_each(|g| model.step(g));
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        (model.bits(), report.global_norm.unwrap().to_bits(), report.clip_coefficient.to_bits())
    };
    let first = run();
    assert!((1..10).all(|_| run() == first));
}

#[test]
fn a_full_step_table_is_an_error_that_does_no_harm() {
    let gpu = gpu();
    let (mut model, mut oracle) = tiny(&gpu, &config());
    let mut encoder1 = encoder(&gpu);
    for step in 0..STEP_ROWS {
        model.optimizer.step(&mut encoder1).unwrap_or_else(|e| panic!("step {step}: {e}"));
    }
    for _ in 0..3 {
        let error = model.optimizer.step(&mut encoder1).unwrap_err();
        assert_eq!(error, Error::StepTableFull { pending: STEP_ROWS, rows: STEP_ROWS });
    }
    // Nor in another encoder, as long as the first may still be submitted.
    let error = model.optimizer.step(&mut encoder(&gpu)).unwrap_err();
    assert_eq!(error, Error::StepTableFull { pending: STEP_ROWS, rows: STEP_ROWS });

    gpu.queue().submit([encoder1.finish()]);
    for _ in 0..STEP_ROWS {
        oracle.step_all(&[vec![0.25]]);
    }
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!(report.steps_taken, STEP_ROWS);
    oracle.check(&model.optimizer, "a full table");

    // Everything is done: there is room for as many again.
    let mut encoder2 = encoder(&gpu);
    for step in 0..STEP_ROWS {
        model.optimizer.step(&mut encoder2).unwrap_or_else(|e| panic!("step {step} after the table was full: {e}"));
    }
    gpu.queue().submit([encoder2.finish()]);
    for _ in 0..STEP_ROWS {
        oracle.step_all(&[vec![0.25]]);
    }
    oracle.check(&model.optimizer, "the table full twice");
}

#[test]
fn steps_go_on_for_longer_than_the_table_is() {
    let gpu = gpu();
    let (mut model, mut oracle) = tiny(&gpu, &config());
    for _ in 0..2 * STEP_ROWS / 64 + 3 {
        submit(&gpu, |encoder| (0..64).for_each(|_| model.optimizer.step(encoder).unwrap()));
        for _ in 0..64 {
            oracle.step_all(&[vec![0.25]]);
        }
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "twice around the ring");
}

#[test]
fn dropped_encoders_leave_no_trace() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    let mut oracle = oracle(&config());
    for step in 0..6 {
        for finish in [false, true] {
            let mut encoder = encoder(&gpu);
            model.optimizer.step(&mut encoder).unwrap();
            model.optimizer.step(&mut encoder).unwrap();
            if finish {
                drop(encoder.finish());
            }
        }
        model.step(&gradients(step));
        oracle.step_all(&gradients(step));
    }
    oracle.check(&model.optimizer, "six steps and 24 dropped ones");
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((report.steps_taken, report.steps_skipped), (6, 0));
}

#[test]
fn thousands_of_dropped_steps_do_not_fill_the_table() {
    let gpu = gpu();
    let (mut model, mut oracle) = tiny(&gpu, &config());
    for round in 0..3 {
        for finish in [false, true] {
            let mut encoder = encoder(&gpu);
            for step in 0..STEP_ROWS - 8 {
                let recorded = model.optimizer.step(&mut encoder);
                recorded.unwrap_or_else(|e| panic!("round {round} step {step}: {e}"));
            }
            if finish {
                drop(encoder.finish());
            }
        }
        model.submit();
        oracle.step_all(&[vec![0.25]]);
    }
    oracle.check(&model.optimizer, "three steps among thousands of dropped ones");
}

#[test]
fn encoders_run_in_the_order_of_submission() {
    let gpu = gpu();
    let config = config().clip_global_norm(1.0);
    let mut model = model(&gpu, &config, Place::Separate);
    let mut oracle = oracle(&config);
    let order = [3, 0, 4, 2, 1];
    let mut encoders = Vec::new();
    let sets: Vec<_> = (0..5).map(|i| fresh(&gpu, &gradients(i), 2)).collect();
    for (_, slices) in &sets {
        let mut encoder = encoder(&gpu);
        rebind(&mut model.optimizer, slices);
        model.optimizer.step(&mut encoder).unwrap();
        encoders.push(Some(encoder.finish()));
    }
    for index in order {
        gpu.queue().submit([encoders[index].take().unwrap()]);
        oracle.step_all(&gradients(index));
    }
    oracle.check(&model.optimizer, "five encoders out of order");
    assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_taken, 5);
    // And steps go on from there.
    let (_packed, slices) = fresh(&gpu, &gradients(9), 0);
    rebind(&mut model.optimizer, &slices);
    model.submit();
    oracle.step_all(&gradients(9));
    oracle.check(&model.optimizer, "one more");
}

#[test]
fn reports_arrive_by_themselves_and_never_wait() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    assert_eq!(model.optimizer.report().unwrap(), None);
    let mut recorded = encoder(&gpu);
    model.write_gradients(&gradients(0));
    model.optimizer.step(&mut recorded).unwrap();
    // Not submitted: a wait for it would never end.
    assert_eq!(model.optimizer.report().unwrap(), None);
    assert_eq!(model.optimizer.wait_for_report().unwrap(), None);
    gpu.queue().submit([recorded.finish()]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let report = loop {
        match model.optimizer.report().unwrap() {
            Some(report) => break report,
            None => assert!(Instant::now() < deadline, "no report"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!((report.steps_taken, report.steps_skipped, report.skipped, report.nonfinite), (1, 0, false, 0));
    assert_eq!(report.lr, f64::from(1e-3f32));
    assert_eq!((report.global_norm, report.clip_coefficient), (None, 1.0));
}

#[test]
fn the_report_waited_for_is_of_the_last_step() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    model.write_gradients(&gradients(0));
    for steps in [1, 20, 3] {
        let before = model.optimizer.report().unwrap().map_or(0, |r| r.steps_taken);
        submit(&gpu, |encoder| (0..steps).for_each(|_| model.optimizer.step(encoder).unwrap()));
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        assert_eq!(report.steps_taken, before + steps);
    }
}

#[test]
fn skipped_steps_keep_bias_correction_exact() {
    for place in PLACES {
        let gpu = gpu();
        let mut model = model(&gpu, &config(), place);
        let mut good = oracle(&config());
        for step in 0..12 {
            let mut values = gradients(step);
            let bad = step % 3 == 1;
            if bad {
                values[2][4099] = f32::NAN;
            } else {
                good.step_all(&values);
            }
            model.step(&values);
            let report = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((report.skipped, report.nonfinite), (bad, u64::from(bad)));
        }
        let mut state = model.optimizer.state_blocking().unwrap();
        assert_eq!((state.steps_taken, state.steps_skipped), (8, 4));
        state.steps_skipped = 0;
        assert_eq!(good.misses(&model.params(), &state), Vec::<String>::new(), "{place:?}");
    }
}

#[test]
fn steps_that_the_device_refuses_leave_no_trace() {
    let gpu = Watched::own().gpu;
    let (mut model, mut oracle) = tiny(&gpu, &config());
    let refused = |model: &mut Model, steps: u64| {
        let mut recorded = encoder(&gpu);
        (0..steps).for_each(|_| model.optimizer.step(&mut recorded).unwrap());
        refuse(&gpu, recorded);
    };
    for _ in 0..3 {
        refused(&mut model, STEP_ROWS - 8);
        model.submit();
        oracle.step_all(&[vec![0.25]]);
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "three steps among thousands of refused ones");
    refused(&mut model, 3);
    // Which waits for all that is under way to end.
    model.optimizer.remove_tensors(&[]).unwrap();
    // One that may still be submitted is none of them.
    refused(&mut model, 2);
    let mut recorded = encoder(&gpu);
    model.optimizer.step(&mut recorded).unwrap();
    assert!(matches!(model.optimizer.remove_tensors(&[]), Err(Error::StepsUnderWay { .. })));
    gpu.queue().submit([recorded.finish()]);
    model.optimizer.remove_tensors(&[]).unwrap();
    oracle.step_all(&[vec![0.25]]);
    oracle.check(&model.optimizer, "refused ones before a change of tensors");
}

/// The memory of its report holds that of a step before.
#[test]
fn a_refused_step_reports_nothing_of_a_state_from_before() {
    let gpu = Watched::own().gpu;
    let mut model = model(&gpu, &config(), Place::Arena);
    model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
    // Nor of memory that was never written.
    let mut recorded = encoder(&gpu);
    model.optimizer.step(&mut recorded).unwrap();
    refuse(&gpu, recorded);
    gpu.device().poll(wgpu_optim::wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!((model.optimizer.report().unwrap(), model.optimizer.health().unwrap()), (None, None));
    model.step(&gradients(0));
    let state = model.optimizer.state_blocking().unwrap();
    for step in 0..10 {
        model.step(&gradients(step));
        model.optimizer.wait_for_report().unwrap();
    }
    assert_eq!(model.optimizer.health().unwrap().map(|health| health.steps_taken), Some(11));
    model.optimizer.load_state(&state).unwrap();
    assert_eq!(model.optimizer.report().unwrap(), None);
    assert_eq!(model.optimizer.health().unwrap(), None, "of the state before");
    let mut recorded = encoder(&gpu);
    model.optimizer.step(&mut recorded).unwrap();
    refuse(&gpu, recorded);
    gpu.device().poll(wgpu_optim::wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(model.optimizer.report().unwrap(), None);
    assert_eq!(model.optimizer.health().unwrap(), None, "copied before the state was loaded");
    model.step(&gradients(1));
    assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_taken, 2);
}
