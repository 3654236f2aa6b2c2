//! What one backend refuses, the other refuses too, in the same words, and nothing is changed by it.

mod support;

use ndarray::{ArrayD, IxDyn};
use support::model::{Model, Place};
use support::{Numbers, encoder, gpu, submit};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::rules::{AdamW, ScheduleFreeAdamW};
use wgpu_optim::{
    Arena, Checkpoint, EmaConfig, Group, HealthConfig, OptimizerConfig, Result, StateFormat, StorageConfig, TensorSpec,
};

fn specs() -> Vec<TensorSpec> {
    let specs: [(&str, &[u64]); 4] = [("w", &[5, 3]), ("still", &[2]), ("scalar", &[]), ("narrow", &[70, 100])];
    specs.map(|(name, shape)| TensorSpec::new(name, shape)).to_vec()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs().iter().map(|spec| numbers.take(spec.elements().unwrap() as usize)).collect()
}

/// An average, a frozen tensor, and one whose rows share scales.
fn averaged() -> OptimizerConfig {
    let narrow = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
    OptimizerConfig::new(AdamW::default())
        .storage(narrow)
        .group(Group::matching("still").frozen())
        .ema(EmaConfig { decay: 0.5, ..EmaConfig::default() })
}

/// The same run on both backends.
struct Both {
    on_gpu: Model,
    on_cpu: CpuOptimizer<f32>,
    params: Vec<ArrayD<f32>>,
    config: OptimizerConfig,
}

fn arrays(values: &[Vec<f32>]) -> Vec<ArrayD<f32>> {
    let shape = |spec: &TensorSpec| IxDyn(&spec.shape.iter().map(|n| *n as usize).collect::<Vec<_>>());
    specs().iter().zip(values).map(|(s, v)| ArrayD::from_shape_vec(shape(s), v.clone()).unwrap()).collect()
}

impl Both {
    fn new(config: &OptimizerConfig) -> Self {
        let mut both = Self {
            on_gpu: Model::new(&gpu(), config, &specs(), &values(1), Place::Arena),
            on_cpu: CpuOptimizer::new(config, &specs()).unwrap(),
            params: arrays(&values(1)),
            config: config.clone(),
        };
        (0..2).for_each(|step| both.step(step));
        both
    }

    fn step(&mut self, step: u64) {
        self.on_gpu.step(&values(10 + step));
        self.cpu_step(step).unwrap();
    }

    fn cpu_step(&mut self, step: u64) -> Result<()> {
        let gradients = arrays(&values(10 + step));
        let tensors = self.params.iter_mut().zip(&gradients);
        let mut tensors: Vec<_> = tensors.map(|(p, g)| CpuTensor::new(p.view_mut(), g.view())).collect();
        self.on_cpu.step(&mut tensors).map(drop)
    }

    fn swap(&mut self) {
        let optimizer = &mut self.on_gpu.optimizer;
        submit(&self.on_gpu.gpu, |encoder| optimizer.swap_ema(encoder).unwrap());
        let mut views: Vec<_> = self.params.iter_mut().map(|p| p.view_mut()).collect();
        self.on_cpu.swap_ema(&mut views).unwrap();
    }

    /// Parameters and state of both, by bits: averages of rows can be NaN.
    fn bits(&self) -> String {
        let state = self.on_gpu.optimizer.state_blocking().unwrap();
        format!("{:?} {state:?} {:?} {:?}", self.on_gpu.params(), self.params, self.on_cpu.state())
    }
}

type Call = (&'static str, fn(&mut Both) -> [Result<()>; 2]);

fn arena(both: &Both, name: &str, shape: &[u64]) -> Vec<wgpu_optim::Tensor> {
    Arena::for_config(&both.on_gpu.gpu, &OptimizerConfig::new(AdamW::default()), [TensorSpec::new(name, shape)])
        .unwrap()
        .tensors()
        .to_vec()
}

fn set_rows(both: &mut Both, name: &str, width: &[u64], rows: &[Option<u32>]) -> [Result<()>; 2] {
    let shape = [&[rows.len() as u64], width].concat();
    let tensor = arena(both, name, &shape).remove(0);
    [both.on_gpu.optimizer.set_rows(tensor, rows), both.on_cpu.set_rows(name, rows)]
}

fn zero_rows(both: &mut Both, name: &str, rows: &[u32]) -> [Result<()>; 2] {
    let gpu = both.on_gpu.gpu.clone();
    [both.on_gpu.optimizer.zero_rows(&mut encoder(&gpu), name, rows), both.on_cpu.zero_rows(name, rows)]
}

fn reconfigure(both: &mut Both, config: &OptimizerConfig, specs: &[TensorSpec]) -> [Result<()>; 2] {
    let mut tensors = both.on_gpu.optimizer.tensors().to_vec();
    tensors.iter_mut().zip(specs).for_each(|(tensor, spec)| tensor.spec = spec.clone());
    [both.on_gpu.optimizer.reconfigure(config, tensors), both.on_cpu.reconfigure(config, specs)]
}

/// Of both, each with the state that it has.
fn save(both: &mut Both) -> [Result<()>; 2] {
    let params: Vec<Vec<f32>> = both.params.iter().map(|p| p.iter().copied().collect()).collect();
    let checkpoint = Checkpoint::new(both.on_cpu.state()).with_params(both.on_cpu.plan(), params).unwrap();
    let state = both.on_gpu.optimizer.state_blocking();
    [state.and_then(|state| state.to_safetensors()).map(drop), checkpoint.to_safetensors().map(drop)]
}

fn load_own(both: &mut Both) -> [Result<()>; 2] {
    let state = both.on_gpu.optimizer.state_blocking();
    let on_gpu = state.and_then(|state| both.on_gpu.optimizer.load_state(&state));
    [on_gpu, both.on_cpu.load_state(&both.on_cpu.state())]
}

/// Each call is refused on both, with an error that says so, and neither is changed.
#[track_caller]
fn all_refused(both: &mut Both, calls: &[Call], says: impl Fn(&str) -> &'static str) {
    let before = both.bits();
    for (what, call) in calls {
        let [on_gpu, on_cpu] = call(both).map(|outcome| outcome.map_err(|e| e.to_string()));
        let [Err(on_gpu), Err(on_cpu)] = [on_gpu.clone(), on_cpu.clone()] else {
            panic!("{what}: the GPU said {on_gpu:?}, the CPU {on_cpu:?}");
        };
        assert!(on_gpu.contains(says(what)), "{what}: the GPU said {on_gpu}");
        assert!(on_cpu.contains(says(what)), "{what}: the CPU said {on_cpu}");
        assert_eq!(both.bits(), before, "{what}");
    }
}

#[test]
fn nothing_meets_the_average_in_the_weights_place() {
    let mut both = Both::new(&averaged());
    both.swap();
    let calls: [Call; 9] = [
        ("step", |both| {
            let gpu = both.on_gpu.gpu.clone();
            [both.on_gpu.optimizer.step(&mut encoder(&gpu)), both.cpu_step(5)]
        }),
        ("a state saved", save),
        ("a state loaded", load_own),
        ("zero_rows", |both| zero_rows(both, "w", &[0])),
        ("set_rows", |both| set_rows(both, "w", &[3], &[Some(1), None])),
        ("add_tensors", |both| {
            let tensors = arena(both, "late", &[3]);
            [both.on_gpu.optimizer.add_tensors(tensors), both.on_cpu.add_tensors([TensorSpec::new("late", [3])])]
        }),
        ("remove_tensors", |both| {
            [both.on_gpu.optimizer.remove_tensors(&["scalar"]), both.on_cpu.remove_tensors(&["scalar"])]
        }),
        ("reconfigure", |both| {
            let config = both.config.clone();
            reconfigure(both, &config, &specs())
        }),
        ("another plan", |both| reconfigure(both, &OptimizerConfig::new(AdamW::default()), &specs())),
    ];
    all_refused(&mut both, &calls, |_| "swap_ema once more");
    // A checkpoint, which only the GPU takes by itself; and one that was kept in memory.
    let optimizer = &both.on_gpu.optimizer;
    assert!(
        optimizer.checkpoint_blocking().is_err() && optimizer.record_state(&mut encoder(&both.on_gpu.gpu)).is_err()
    );
    let swapped = [optimizer.state_blocking().unwrap(), both.on_cpu.state()];
    assert!(swapped.iter().all(|state| state.swapped && state.check(optimizer.plan()).is_err()));
    both.swap();
    for state in swapped {
        assert!(both.on_gpu.optimizer.load_checkpoint(&Checkpoint::new(state.clone())).is_err());
        assert!(both.on_cpu.load_state(&state).is_err());
    }
    save(&mut both).into_iter().chain(load_own(&mut both)).for_each(|outcome| outcome.unwrap());
    both.step(6);
    assert_eq!(both.on_gpu.optimizer.wait_for_report().unwrap().unwrap().steps_taken, both.on_cpu.state().steps_taken);
}

#[test]
fn an_evaluation_of_iterates_does_not_begin_on_the_average() {
    let config = OptimizerConfig::new(ScheduleFreeAdamW::default()).ema(EmaConfig::default());
    let mut both = Both::new(&config);
    both.swap();
    let calls: [Call; 1] = [("evaluation", |both| {
        let gpu = both.on_gpu.gpu.clone();
        let views: Vec<_> = both.params.iter_mut().map(|p| p.view_mut()).collect();
        let on_cpu = both.on_cpu.evaluation_weights(&views).map(drop);
        [both.on_gpu.optimizer.begin_evaluation(&mut encoder(&gpu)), on_cpu]
    })];
    all_refused(&mut both, &calls, |_| "swap_ema once more");
}

#[test]
fn tensors_and_rows_that_cannot_be_are_refused_by_both() {
    let mut both = Both::new(&averaged());
    let calls: [Call; 14] = [
        ("no row 5", |both| zero_rows(both, "w", &[1, 5])),
        ("no such tensor", |both| zero_rows(both, "none", &[0])),
        ("frozen", |both| zero_rows(both, "still", &[0])),
        ("no rows", |both| zero_rows(both, "scalar", &[0])),
        ("share a scale", |both| zero_rows(both, "narrow", &[0])),
        ("no row 7", |both| set_rows(both, "w", &[3], &[Some(7)])),
        ("no such tensor", |both| set_rows(both, "none", &[3], &[None])),
        ("frozen", |both| set_rows(both, "still", &[], &[None])),
        ("share a scale", |both| set_rows(both, "narrow", &[100], &[Some(0)])),
        ("given twice", |both| {
            let tensors = arena(both, "w", &[3]);
            [both.on_gpu.optimizer.add_tensors(tensors), both.on_cpu.add_tensors([TensorSpec::new("w", [3])])]
        }),
        ("no such tensor", |both| {
            [both.on_gpu.optimizer.remove_tensors(&["none"]), both.on_cpu.remove_tensors(&["none"])]
        }),
        ("its state has [5, 3]", |both| {
            let config = both.config.clone();
            let mut specs = specs();
            specs[0].shape = vec![3, 5];
            reconfigure(both, &config, &specs)
        }),
        ("cannot become", |both| {
            let config = both.config.clone().storage(StorageConfig::default());
            reconfigure(both, &config, &specs())
        }),
        ("no moving average", |both| {
            let mut plain = Both::new(&OptimizerConfig::new(AdamW::default()));
            let gpu = both.on_gpu.gpu.clone();
            let mut views: Vec<_> = plain.params.iter_mut().map(|p| p.view_mut()).collect();
            [plain.on_gpu.optimizer.swap_ema(&mut encoder(&gpu)), plain.on_cpu.swap_ema(&mut views)]
        }),
    ];
    let words = calls.map(|(what, _)| what);
    all_refused(&mut both, &calls, |what| words.into_iter().find(|word| *word == what).unwrap());
}

#[test]
fn options_and_states_that_cannot_be_are_refused_by_both() {
    let mut both = Both::new(&averaged());
    let calls: [Call; 9] = [
        ("health.interval", |both| {
            let config = || Some(HealthConfig { interval: 0, ..HealthConfig::default() });
            [both.on_gpu.optimizer.set_health(config()), both.on_cpu.set_health(config())]
        }),
        ("optimizer.lr", |both| [both.on_gpu.optimizer.set_lr(f64::NAN), both.on_cpu.set_lr(f64::NAN)]),
        ("no such group", |both| {
            [both.on_gpu.optimizer.set_group_lr("none", 1.0), both.on_cpu.set_group_lr("none", 1.0)]
        }),
        ("plateau", |both| [both.on_gpu.optimizer.report_loss(1.0), both.on_cpu.report_loss(1.0)]),
        ("cannot begin", |both| {
            let mut plain = Both::new(&OptimizerConfig::new(AdamW::default()));
            let config = plain.config.clone().ema(EmaConfig::default());
            let _ = both;
            reconfigure(&mut plain, &config, &specs())
        }),
        ("is missing", |both| with_state(both, |state| drop(state.tensors.pop()))),
        ("twice", |both| {
            with_state(both, |state| {
                let slot = state.tensors[0].slots[0].clone();
                state.tensors[0].slots.push(slot);
            })
        }),
        ("values in slot", |both| with_state(both, |state| state.tensors[0].slots[0].1.truncate(14))),
        ("scales of slot", |both| {
            with_state(both, |state| {
                let narrow = state.tensors.iter_mut().find(|t| t.name == "narrow").unwrap();
                narrow.storage[0].scales.pop().unwrap();
            })
        }),
    ];
    let words = calls.map(|(what, _)| what);
    all_refused(&mut both, &calls, |what| words.into_iter().find(|word| *word == what).unwrap());
}

/// Loads the state that each has, changed.
fn with_state(both: &mut Both, change: impl Fn(&mut wgpu_optim::OptimizerState)) -> [Result<()>; 2] {
    let mut states = [both.on_gpu.optimizer.state_blocking().unwrap(), both.on_cpu.state()];
    states.iter_mut().for_each(change);
    [both.on_gpu.optimizer.load_state(&states[0]), both.on_cpu.load_state(&states[1])]
}

/// A look at a state that is gone tells nobody anything.
#[test]
fn looks_end_with_the_state_that_they_are_of() {
    let mut both = Both::new(&averaged());
    let config = || Some(HealthConfig { interval: 1, ..HealthConfig::default() });
    both.on_gpu.optimizer.set_health(config()).unwrap();
    both.on_cpu.set_health(config()).unwrap();
    let seen = |both: &mut Both| [both.on_gpu.optimizer.health().unwrap().is_some(), both.on_cpu.health().is_some()];
    let looked =
        |both: &mut Both| support::look(&mut both.on_gpu.optimizer).is_some() && both.on_cpu.health().is_some();
    both.step(3);
    assert!(looked(&mut both));
    load_own(&mut both).into_iter().for_each(|outcome| outcome.unwrap());
    assert_eq!(seen(&mut both), [false; 2], "after a load");
    both.step(4);
    assert!(looked(&mut both));
    let config = both.config.clone();
    reconfigure(&mut both, &config, &specs()).into_iter().for_each(|outcome| outcome.unwrap());
    assert_eq!(seen(&mut both), [false; 2], "after a change of tensors");
}
