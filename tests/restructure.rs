//! Tensors and groups that come and go and rows that move between steps: the GPU against the same changes of
//! the oracle, whose rows are moved on the host.

mod support;

use support::model::{Model, PLACES, Place, buffer};
use support::oracle::Run;
use support::{Numbers, encoder, gpu, submit, wide};
use wgpu_optim::gpu::Fault;
use wgpu_optim::rules::{AdamW, RmsProp, Sgd};
use wgpu_optim::schedule::Exponential;
use wgpu_optim::{
    DynamicScale, EmaConfig, Error, Group, HealthConfig, LossScale, Optimizer, OptimizerConfig, Slice, Tensor,
    TensorSpec, rules, wgpu,
};

fn draw(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs.iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

/// A tensor in memory of its own, at an odd offset, with a gradient.
fn own_tensor(gpu: &wgpu_optim::Gpu, spec: &TensorSpec, params: &[f32]) -> Tensor {
    let size = params.len() as u64 * 4;
    let slice = || Slice::new(&buffer(gpu, size + 64), 4, size);
    let tensor = Tensor::new(spec.name.clone(), spec.shape.clone(), slice()).with_gradient(slice());
    gpu.write(&tensor.params, params).unwrap();
    tensor
}

/// The optimizer on the GPU beside the oracle in f64 and its f32 peer, all changed alike.
struct Both {
    gpu: wgpu_optim::Gpu,
    optimizer: Optimizer,
    exact: Run<f64>,
    peer: Run<f32>,
    specs: Vec<TensorSpec>,
    step: u64,
}

impl Both {
    fn new(config: &OptimizerConfig, specs: &[TensorSpec], place: Place) -> Self {
        let params = draw(specs, 1);
        let model = Model::new(&gpu(), config, specs, &params, place);
        Self {
            gpu: model.gpu.clone(),
            optimizer: model.optimizer,
            exact: Run::new(config, specs, &params),
            peer: Run::new(config, specs, &params),
            specs: specs.to_vec(),
            step: 0,
        }
    }

    fn step(&mut self) {
        self.step += 1;
        let gradients = draw(&self.specs, 1000 + self.step);
        for (tensor, values) in self.optimizer.tensors().iter().zip(&gradients) {
            self.gpu.write(tensor.gradient.as_ref().unwrap(), values).unwrap();
        }
        let optimizer = &mut self.optimizer;
        submit(&self.gpu, |encoder| optimizer.step(encoder).unwrap());
        self.exact.step(&gradients.iter().map(|g| Some(wide(g))).collect::<Vec<_>>());
        self.peer.step(&gradients.into_iter().map(Some).collect::<Vec<_>>());
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }

    fn place(&self, name: &str) -> usize {
        self.specs.iter().position(|s| s.name == name).unwrap()
    }

    /// The bits of parameters and state of a tensor.
    fn bits(&self, name: &str) -> Vec<u32> {
        let state = self.optimizer.state_blocking().unwrap();
        let params = self.optimizer.params_blocking().unwrap().swap_remove(self.place(name));
        let slots = state.tensor(name).unwrap().slots.iter().flat_map(|(_, values)| values);
        params.iter().chain(slots).map(|x| x.to_bits()).collect()
    }

    fn add(&mut self, specs: &[TensorSpec]) {
        let params = draw(specs, 77 + self.step);
        let tensors: Vec<_> = specs.iter().zip(&params).map(|(s, p)| own_tensor(&self.gpu, s, p)).collect();
        self.optimizer.add_tensors(tensors).unwrap();
        self.exact.optimizer.add_tensors(specs.to_vec()).unwrap();
        self.peer.optimizer.add_tensors(specs.to_vec()).unwrap();
        self.specs.extend(specs.to_vec());
        self.exact.params.extend(params.iter().map(|p| wide(p)));
        self.peer.params.extend(params);
        self.reshape();
    }

    fn remove(&mut self, name: &str) {
        let place = self.place(name);
        self.optimizer.remove_tensors(&[name]).unwrap();
        self.exact.optimizer.remove_tensors(&[name]).unwrap();
        self.peer.optimizer.remove_tensors(&[name]).unwrap();
        self.specs.remove(place);
        self.exact.params.remove(place);
        self.peer.params.remove(place);
        self.reshape();
    }

    fn set_rows(&mut self, name: &str, rows: &[Option<u32>]) {
        let place = self.place(name);
        let mut spec = self.specs[place].clone();
        spec.shape[0] = rows.len() as u64;
        let elements = spec.elements().unwrap() as usize;
        // Poisoned: every row must be written.
        let tensor = own_tensor(&self.gpu, &spec, &vec![f32::NAN; elements]);
        self.optimizer.set_rows(tensor, rows).unwrap();
        let width = spec.shape[1..].iter().product::<u64>() as usize;
        fn moved<F: Copy + Default>(old: &[F], rows: &[Option<u32>], width: usize) -> Vec<F> {
            let row =
                |r: &Option<u32>| r.map_or(vec![F::default(); width], |r| old[r as usize * width..][..width].to_vec());
            rows.iter().flat_map(row).collect()
        }
        self.exact.params[place] = moved(&self.exact.params[place], rows, width);
        self.peer.params[place] = moved(&self.peer.params[place], rows, width);
        self.exact.optimizer.set_rows(name, rows).unwrap();
        self.peer.optimizer.set_rows(name, rows).unwrap();
        self.specs[place] = spec;
        self.reshape();
    }

    fn zero_rows(&mut self, name: &str, rows: &[u32]) {
        let place = self.place(name);
        let optimizer = &mut self.optimizer;
        submit(&self.gpu, |encoder| optimizer.zero_rows(encoder, name, rows).unwrap());
        self.exact.optimizer.zero_rows(name, rows).unwrap();
        self.peer.optimizer.zero_rows(name, rows).unwrap();
        let width = self.specs[place].shape[1..].iter().product::<u64>() as usize;
        for row in rows {
            let first = *row as usize * width;
            self.exact.params[place][first..first + width].fill(0.0);
            self.peer.params[place][first..first + width].fill(0.0);
        }
    }

    fn reconfigure(&mut self, config: &OptimizerConfig) {
        let tensors = self.optimizer.tensors().to_vec();
        self.optimizer.reconfigure(config, tensors).unwrap();
        self.exact.optimizer.reconfigure(config, &self.specs).unwrap();
        self.peer.optimizer.reconfigure(config, &self.specs).unwrap();
    }

    fn reshape(&mut self) {
        self.exact.set_specs(&self.specs);
        self.peer.set_specs(&self.specs);
    }

    /// Parameters and all slots against the oracle; errors relative to the values, within what the f32 twin is
    /// off: rounding is all that differs, and a moved row keeps its own.
    #[track_caller]
    fn check(&self, what: &str) {
        let state = self.optimizer.state_blocking().unwrap();
        let (exact, peer) = (self.exact.optimizer.state(), self.peer.optimizer.state());
        assert_eq!((state.steps_taken, state.steps_skipped), (exact.steps_taken, exact.steps_skipped), "{what}");
        let near = |what: &str, got: &[f32], want: &[f64], peer: &[f32]| {
            assert_eq!(got.len(), want.len(), "{what}");
            let largest = want.iter().fold(0f64, |a, x| a.max(x.abs()));
            // NaN in both marks averages that rows do not have yet.
            let values = got.iter().zip(want).zip(peer).enumerate();
            for (i, ((got, want), peer)) in values.filter(|(_, ((got, want), _))| !(got.is_nan() && want.is_nan())) {
                let (off, own) = ((f64::from(*got) - want).abs(), (f64::from(*peer) - want).abs());
                assert!(off <= 1e-6 * largest + 4.0 * own, "{what}, element {i}: {got}, expected {want}, f32 {peer}");
            }
        };
        for ((got, want), peer) in state.tensors.iter().zip(&exact.tensors).zip(&peer.tensors) {
            assert_eq!((&got.name, &got.shape, got.steps), (&want.name, &want.shape, want.steps), "{what}");
            for (((slot, got), (_, want)), (_, peer)) in got.slots.iter().zip(&want.slots).zip(&peer.slots) {
                near(&format!("{what}: {slot}"), got, want, peer);
            }
        }
        assert_eq!(state.tensors.len(), exact.tensors.len(), "{what}");
        let params = self.optimizer.params_blocking().unwrap();
        for (t, got) in params.iter().enumerate() {
            near(&format!("{what}: {}", self.specs[t].name), got, &self.exact.params[t], &self.peer.params[t]);
        }
    }
}

fn specs() -> Vec<TensorSpec> {
    [("a", &[7][..]), ("points", &[1500, 3]), ("b", &[5, 1000]), ("empty", &[0, 4])]
        .map(|(name, shape)| TensorSpec::new(name, shape))
        .to_vec()
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

#[test]
fn every_rule_keeps_its_state_through_every_change() {
    for (rule, place) in rules::all().into_iter().zip(PLACES.into_iter().cycle()) {
        let name = rule.name();
        let config = OptimizerConfig::from_boxed(rule).ema(EmaConfig { decay: 0.9, warmup: true, interval: 1 });
        let mut both = Both::new(&config, &specs(), place);
        both.steps(3);
        let before = ["a", "points", "b"].map(|t| both.bits(t));
        both.add(&[TensorSpec::new("late", [33]), TensorSpec::new("later", [2, 2])]);
        assert_eq!(["a", "points", "b"].map(|t| both.bits(t)), before, "{name}: others must not notice");
        both.check(&format!("{name}, added"));
        both.steps(2);
        both.check(&format!("{name}, steps after added"));
        let counts: Vec<_> = both.optimizer.state_blocking().unwrap().tensors.iter().map(|t| t.steps).collect();
        assert_eq!(counts, [5, 5, 5, 0, 2, 2], "{name}");

        // Dropped, repeated, reversed and appended.
        let rows: Vec<_> = (0..1500).rev().filter(|r| r % 3 != 0).chain([7, 7]).map(Some).chain([None; 5]).collect();
        let before = ["a", "b", "late"].map(|t| both.bits(t));
        both.set_rows("points", &rows);
        assert_eq!(["a", "b", "late"].map(|t| both.bits(t)), before, "{name}: others must not notice");
        both.check(&format!("{name}, rows"));
        both.steps(2);
        both.check(&format!("{name}, steps after rows"));

        both.zero_rows("b", &[0, 3]);
        both.check(&format!("{name}, zeroed rows"));
        both.steps(1);
        both.remove("a");
        both.remove("late");
        both.check(&format!("{name}, removed"));
        both.steps(2);
        both.check(&format!("{name}, steps after removed"));
    }
}

#[test]
fn gathered_rows_keep_their_bits() {
    let mut both = Both::new(&adamw(), &specs(), Place::Arena);
    both.steps(3);
    let row = |both: &Both, r: usize| -> Vec<u32> {
        let bits = both.bits("points");
        let len = bits.len() / 3;
        (0..3).flat_map(|part| bits[part * len + 3 * r..part * len + 3 * r + 3].to_vec()).collect()
    };
    let old = [0, 1499, 700].map(|r| row(&both, r));
    both.set_rows("points", &[Some(700), None, Some(1499), Some(0), Some(0)]);
    assert_eq!([0, 2, 3, 4].map(|r| row(&both, r)), [old[2].clone(), old[1].clone(), old[0].clone(), old[0].clone()]);
    assert_eq!(row(&both, 1), [0; 9], "a new row");
    both.set_rows("points", &[]);
    both.check("no rows at all");
    both.steps(1);
    both.set_rows("points", &[None, None]);
    both.steps(2);
    both.check("rows again");
}

#[test]
fn slots_of_new_rows_start_as_their_rule_says() {
    let config = OptimizerConfig::from_boxed(rules::by_name("adagrad").unwrap());
    let mut config = config;
    config.rule.set_option("initial_accumulator_value", &0.5.into()).unwrap();
    let mut both = Both::new(&config, &specs(), Place::Separate);
    both.steps(2);
    both.set_rows("points", &[Some(3), None]);
    let sums = &both.optimizer.state_blocking().unwrap().tensors[1].slots[0].1;
    assert_eq!(sums[3..], [0.5; 3]);
    both.zero_rows("points", &[0]);
    assert_eq!(both.optimizer.state_blocking().unwrap().tensors[1].slots[0].1, [0.5; 6]);
}

#[test]
fn groups_come_and_go() {
    let mut both = Both::new(&adamw(), &specs(), Place::TwoBuffers);
    both.optimizer.set_lr(0.004).unwrap();
    both.exact.optimizer.set_lr(0.004).unwrap();
    both.peer.optimizer.set_lr(0.004).unwrap();
    both.steps(3);
    // Another rate and AMSGrad for one, another rule for another, one frozen.
    let other = OptimizerConfig::new(AdamW { amsgrad: true, ..AdamW::default() })
        .group(Group::matching("points").set("lr", 0.1))
        .group(Group::matching("b").rule(RmsProp { momentum: 0.5, ..RmsProp::default() }))
        .group(Group::matching("empty").frozen());
    both.reconfigure(&other);
    both.check("grouped");
    assert_eq!(both.optimizer.rates().base(), 1e-3, "the new configuration's");
    let counts: Vec<_> = both.optimizer.state_blocking().unwrap().tensors.iter().map(|t| t.steps).collect();
    assert_eq!(counts, [3, 3, 0], "another rule starts anew");
    both.steps(3);
    both.check("steps in groups");
    both.reconfigure(&adamw());
    both.steps(2);
    both.check("ungrouped");
    // What was set at run time stays where groups stay.
    both.optimizer.set_lr(0.25).unwrap();
    both.exact.optimizer.set_lr(0.25).unwrap();
    both.peer.optimizer.set_lr(0.25).unwrap();
    both.add(&[TensorSpec::new("late", [3])]);
    assert_eq!(both.optimizer.rates().base(), 0.25);
    both.steps(1);
    both.check("a rate set at run time");
}

/// A group that has lost its last tensor stays for what comes; a configuration that is new must fit.
#[test]
fn a_group_may_lose_its_tensors() {
    let config = adamw().group(Group::matching("b*").set("lr", 0.1));
    let mut both = Both::new(&config, &specs(), Place::Separate);
    both.steps(1);
    both.remove("b");
    assert_eq!(both.optimizer.rates().groups()[1].lr, 0.1);
    both.steps(1);
    both.set_rows("points", &[Some(1), Some(0), None]);
    both.steps(1);
    let tensors = both.optimizer.tensors().to_vec();
    let error = both.optimizer.reconfigure(&config, tensors).unwrap_err().to_string();
    assert!(error.contains("matches no tensor"), "{error}");
    both.add(&[TensorSpec::new("b2", [3])]);
    assert_eq!(
        both.optimizer.plan().group_of(both.optimizer.plan().tensor_named("b2").unwrap()).pattern.as_deref(),
        Some("b*")
    );
    both.steps(2);
    both.check("a group that was empty");
}

#[test]
fn another_schedule_sign_and_scale_act_though_the_groups_stay() {
    let mut both = Both::new(&adamw(), &specs(), Place::Arena);
    both.steps(2);
    let mut other = adamw().schedule(Exponential { gamma: 0.5 });
    other.common.maximize = true;
    let dynamic = DynamicScale { init: 64.0, growth_interval: 2, ..DynamicScale::default() };
    other.gradient.loss_scale = Some(LossScale::Dynamic(dynamic));
    both.reconfigure(&other);
    both.steps(1);
    let report = both.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((report.lr as f32, report.loss_scale), (0.25e-3, 64.0));
    assert_eq!(both.exact.optimizer.loss_scale(), 64.0);
    both.check("a step up, at another rate");
    // The scale that moves goes on, and so do its good steps.
    both.reconfigure(&other);
    both.steps(1);
    let report = both.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((both.exact.optimizer.loss_scale(), report.loss_scale), (128.0, 128.0));
    both.check("grown");
}

#[test]
fn what_was_asked_for_beside_stays() {
    let mut both = Both::new(&adamw(), &specs(), Place::Arena);
    both.optimizer.set_zero_gradients(true).unwrap();
    both.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
    both.steps(1);
    both.add(&[TensorSpec::new("late", [3])]);
    both.steps(1);
    let health = support::look(&mut both.optimizer).expect("a look");
    assert!(health.tensors.iter().any(|t| t.name == "late"), "{health:?}");
    let gradient = both.optimizer.tensors()[4].gradient.clone().unwrap();
    assert_eq!(support::model::read_slice(&both.gpu, &gradient), [0; 3]);
}

#[test]
fn micro_batches_and_missed_steps_follow() {
    let mut config = adamw();
    config.gradient.accumulate = 3;
    let mut both = Both::new(&config, &specs(), Place::OneBuffer);
    both.steps(4);
    both.remove("empty");
    both.set_rows("b", &[Some(4), Some(0)]);
    both.check("in the middle of a step");
    both.steps(5);
    both.check("after it");
}

#[test]
fn tensors_past_the_binding_limit_keep_their_state() {
    let adapter = pollster::block_on(wgpu_optim::gpu::adapters()).into_iter().next().expect("an adapter");
    let required_limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 19, ..wgpu::Limits::default() };
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).unwrap();
    device.on_uncaptured_error(std::sync::Arc::new(|error| panic!("{error}")));
    let gpu = wgpu_optim::Gpu::new(device, queue);
    // 1.6 MB: several windows.
    let specs = [TensorSpec::new("long", [4000, 101]), TensorSpec::new("b", [5])];
    let params = draw(&specs, 1);
    let model = Model::new(&gpu, &adamw(), &specs, &params, Place::OneBuffer);
    let mut both = Both {
        gpu,
        optimizer: model.optimizer,
        exact: Run::new(&adamw(), &specs, &params),
        peer: Run::new(&adamw(), &specs, &params),
        specs: specs.to_vec(),
        step: 0,
    };
    assert!(both.optimizer.layout().windows.len() >= 4);
    both.steps(2);
    let rows: Vec<_> = (0..4000u32).map(|r| Some(r.wrapping_mul(2_654_435_761) % 4000)).chain([None; 100]).collect();
    both.set_rows("long", &rows);
    both.check("gathered across windows");
    both.zero_rows("long", &[0, 1999, 4099]);
    both.steps(1);
    both.check("a step after");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    // Of its own: faults are injected.
    let gpu = support::own_gpu();
    let config = adamw().group(Group::matching("frozen").frozen());
    let specs = [TensorSpec::new("w", [4, 2]), TensorSpec::new("frozen", [2]), TensorSpec::new("scalar", [])];
    let mut run = Model::new(&gpu, &config, &specs, &draw(&specs, 1), Place::Arena);
    run.step(&draw(&specs, 2));
    let before = run.bits();
    let tensor = |name: &str, shape: &[u64]| {
        let spec = TensorSpec::new(name, shape);
        own_tensor(&gpu, &spec, &vec![0.0; spec.elements().unwrap() as usize])
    };
    let optimizer = &mut run.optimizer;
    let says = |outcome: wgpu_optim::Result<()>, words: &str| {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
    says(optimizer.set_rows(tensor("w", &[2, 2]), &[Some(0), Some(4)]), "no row 4: it has 4");
    says(optimizer.set_rows(tensor("w", &[2, 2]), &[Some(0)]), "expected [1, 2]");
    says(optimizer.set_rows(tensor("w", &[2, 3]), &[Some(0), Some(1)]), "expected [2, 2]");
    says(optimizer.set_rows(tensor("v", &[1]), &[None]), "no such tensor");
    says(optimizer.set_rows(tensor("frozen", &[1]), &[None]), "frozen");
    says(optimizer.set_rows(tensor("scalar", &[]), &[]), "no rows");
    let old = optimizer.tensors()[0].params.clone();
    let smaller = Tensor::new("w", [1, 2], Slice::new(&old.buffer, old.offset + 8, 8));
    says(optimizer.set_rows(smaller, &[Some(0)]), "overlap");
    says(optimizer.zero_rows(&mut encoder(&gpu), "w", &[4]), "no row 4");
    says(optimizer.remove_tensors(&["v"]), "no such tensor");
    says(optimizer.add_tensors([tensor("w", &[1])]), "twice");
    let tensors: Vec<_> = optimizer.tensors().to_vec();
    says(optimizer.reconfigure(&adamw().ema(EmaConfig::default()), tensors.clone()), "cannot begin");
    let mut reshaped = tensors;
    reshaped[0].spec.shape = vec![2, 4];
    says(optimizer.reconfigure(&config, reshaped), "its state has [4, 2]");

    // A step that is recorded and not submitted would go to the old state.
    let mut recorded = encoder(&gpu);
    optimizer.step(&mut recorded).unwrap();
    let error = optimizer.add_tensors([tensor("v", &[1])]).unwrap_err();
    assert_eq!(error, Error::StepsUnderWay { pending: 1 });
    drop(recorded);
    assert_eq!(run.bits(), before);
    run.optimizer.add_tensors([tensor("v", &[1])]).unwrap();

    // Memory that runs out at any allocation.
    let before = run.bits();
    for after in 0.. {
        let late = tensor("late", &[1]);
        gpu.inject_fault(Fault::OutOfMemory { after });
        let outcome = run.optimizer.add_tensors([late]);
        run.gpu.clear_faults();
        if outcome.is_ok() {
            assert!(after > 20, "{after} allocations");
            break;
        }
        assert!(matches!(outcome, Err(Error::OutOfMemory { .. })), "{outcome:?}");
        assert_eq!(run.bits(), before, "allocation {after}");
    }
}

#[test]
fn a_rule_without_state_moves_parameters() {
    let mut both = Both::new(&OptimizerConfig::new(Sgd::default()), &specs(), Place::Arena);
    both.steps(1);
    both.set_rows("points", &[Some(1), None, Some(0)]);
    both.steps(1);
    both.check("without slots");
}
