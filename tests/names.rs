//! Names of tensors: any that a file can hold apart from all others, and no other, refused where tensors are named.

mod support;

use support::gpu;
use wgpu_optim::cpu::CpuOptimizer;
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{
    Arena, Checkpoint, EmaConfig, Error, Format, Group, Optimizer, OptimizerConfig, StateFormat, StorageConfig,
    TensorSpec,
};

fn specs(names: &[&str]) -> Vec<TensorSpec> {
    // Long enough for state in 8 bits.
    names.iter().map(|name| TensorSpec::new(*name, [4096])).collect()
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: wgpu_optim::Result<T>, tensor: &str, words: &[&str]) {
    match outcome.unwrap_err() {
        Error::Tensor { tensor: named, problem } => {
            assert_eq!(named, tensor);
            words.iter().for_each(|word| assert!(problem.contains(word), "{problem:?} does not say {word:?}"));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn names_that_two_entries_of_a_file_would_have_are_refused() {
    let storage = |params, state| StorageConfig { params, state, ..StorageConfig::default() };
    let mut accumulating = adamw();
    accumulating.gradient.accumulate = 2;
    let factored = OptimizerConfig::named("adafactor").unwrap();
    for (config, name, slot) in [
        (adamw(), "w.exp_avg", "exp_avg"),
        (adamw(), "w.exp_avg_sq", "exp_avg_sq"),
        (accumulating, "w.grad_accumulator", "grad_accumulator"),
        (adamw().ema(EmaConfig::default()), "w.ema", "ema"),
        (adamw().storage(storage(Format::Bf16, StateFormat::F32)), "w.master", "master"),
        (adamw().storage(storage(Format::F32, StateFormat::Q8)), "w.exp_avg_sq.absmax", "exp_avg_sq"),
        (factored, "w.variance", "variance"),
    ] {
        let words = ["\"w\"", &format!("{name:?}"), &format!("slot {slot:?}")];
        for order in [["w", name], [name, "w"]] {
            refused(Plan::new(&config, &specs(&order)), name, &words);
            refused(CpuOptimizer::<f32>::new(&config, &specs(&order)), name, &words);
        }
        // Alone, and beside others, it is a name like any.
        Plan::new(&config, &specs(&[name, "v", "w2", "w.", "w.exp"])).unwrap();
    }
    let matrices = ["w", "w.row_var"].map(|name| TensorSpec::new(name, [64, 64]));
    refused(Plan::new(&OptimizerConfig::named("adafactor").unwrap(), &matrices), "w.row_var", &["slot \"row_var\""]);
    // A slot of one as a slot of the other.
    let scales = adamw().storage(storage(Format::F32, StateFormat::Q8));
    Plan::new(&scales, &specs(&["w", "w.exp"])).unwrap();
    // Where there is no such slot there is no such entry.
    Plan::new(&OptimizerConfig::new(Sgd::default()), &specs(&["w", "w.exp_avg", "w.ema"])).unwrap();
    Plan::new(&adamw(), &specs(&["w", "w.exp_avg.absmax", "w.ema", "w.master", "w.step"])).unwrap();
    Plan::new(&adamw().group(Group::matching("w").frozen()), &specs(&["w", "w.exp_avg"])).unwrap();
}

#[test]
fn the_name_that_files_keep_for_themselves_is_refused() {
    let gpu = gpu();
    let name = "__metadata__";
    for config in [adamw(), OptimizerConfig::new(Sgd::default())] {
        refused(Plan::new(&config, &specs(&[name])), name, &["safetensors"]);
        refused(CpuOptimizer::<f64>::new(&config, &specs(&["w", name])), name, &["safetensors"]);
    }
    let arena = Arena::new(&gpu, specs(&[name])).unwrap();
    refused(Optimizer::new(&gpu, &adamw(), arena.tensors().to_vec()), name, &["safetensors"]);
    Plan::new(&adamw(), &specs(&["__metadata__.w", "w.__metadata__", "__Metadata__"])).unwrap();
}

#[test]
fn tensors_that_join_are_refused_likewise_and_so_is_another_configuration() {
    let gpu = gpu();
    let sgd = OptimizerConfig::new(Sgd::default());
    let arena = |names: &[&str]| Arena::new(&gpu, specs(names)).unwrap();
    let mut on_gpu = Optimizer::new(&gpu, &adamw(), arena(&["w"]).tensors().to_vec()).unwrap();
    let mut on_cpu = CpuOptimizer::<f32>::new(&adamw(), &specs(&["w"])).unwrap();
    for name in ["__metadata__", "w.exp_avg"] {
        refused(on_gpu.add_tensors(arena(&[name]).tensors().to_vec()), name, &["name"]);
        refused(on_cpu.add_tensors(specs(&[name])), name, &["name"]);
    }
    on_gpu.add_tensors(arena(&["v"]).tensors().to_vec()).unwrap();
    on_cpu.add_tensors(specs(&["v"])).unwrap();

    let names = ["w", "w.exp_avg"];
    let tensors = arena(&names).tensors().to_vec();
    let mut on_gpu = Optimizer::new(&gpu, &sgd, tensors.clone()).unwrap();
    let mut on_cpu = CpuOptimizer::<f32>::new(&sgd, &specs(&names)).unwrap();
    refused(on_gpu.reconfigure(&adamw(), tensors), "w.exp_avg", &["slot \"exp_avg\""]);
    refused(on_cpu.reconfigure(&adamw(), &specs(&names)), "w.exp_avg", &["slot \"exp_avg\""]);
    assert_eq!(on_gpu.plan().groups[0].rule.name(), "sgd");
    assert_eq!(on_cpu.plan().groups[0].rule.name(), "sgd");
}

/// What the metadata says of a tensor stands under keys that no name makes another's.
#[test]
fn every_other_name_is_saved_and_loaded() {
    let names = [
        "",
        ".",
        "w",
        "w.",
        ".w",
        "format",
        "version",
        "parameters",
        "rates.lr",
        "rates.0.lr",
        "rule:w",
        "steps:w",
        "steps_taken",
        "weight_sum:w",
        "extra:w",
        "loss_scale",
        "w.step",
        "w.steps",
        "\"",
        "a\\b",
        "a\nb\0",
        "schön",
        "🦀",
        "rule:rule:w",
    ];
    let specs: Vec<_> = names.iter().map(|name| TensorSpec::new(*name, [2])).collect();
    let mut optimizer =
        CpuOptimizer::<f32>::new(&OptimizerConfig::named("schedule_free_adamw").unwrap(), &specs).unwrap();
    let mut state = optimizer.state();
    state.steps_taken = 100;
    for (tensor, steps) in state.tensors.iter_mut().zip(1..) {
        (tensor.steps, tensor.weight_sum) = (steps, steps as f64 / 8.0);
        tensor.slots[0].1 = vec![steps as f32; 2];
    }
    let params = (0..names.len()).map(|i| vec![i as f32; 2]);
    let checkpoint = Checkpoint::new(state).with_params(optimizer.plan(), params).unwrap();
    let checkpoint = checkpoint.with_extra("w", "the caller's").with_extra("", "own");
    let bytes = checkpoint.to_safetensors().unwrap();
    assert_eq!(Checkpoint::from_safetensors(&bytes, optimizer.plan()).unwrap(), checkpoint);
    optimizer.load_state(&checkpoint.state).unwrap();
}
