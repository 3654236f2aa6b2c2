//! Every kernel that the library can compose is valid and translates to every shading language.
//! Needs no GPU. What the structs and bindings in it look like is checked in `src/gpu/tests.rs`.

mod support;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use naga::ShaderStage;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use support::variations::{code_variants, variations};
use wgpu_optim::plan::Plan;
use wgpu_optim::shader::{self, Access, ByLine, Kernel, Parts};
use wgpu_optim::verify;
use wgpu_optim::{
    DynamicScale, EmaConfig, GradientConfig, LossScale, NoiseConfig, OnNonfinite, OptimizerConfig, WeightsConfig, rules,
};

const BOTH: [bool; 2] = [false, true];

/// Every conditioning that changes code: all of it for one rule, the shapes of it for the others.
fn conditionings(thorough: bool) -> Vec<GradientConfig> {
    let plain = GradientConfig::default();
    let limits: [fn(&mut GradientConfig); 6] = [
        |_| {},
        |g| g.clip_global_norm = Some(1.0),
        |g| g.normalize_global_norm = Some(1.0),
        |g| g.clip_tensor_norm = Some(1.0),
        |g| g.clip_max_abs = Some(1.0),
        |g| g.clip_adaptive = Some(0.1),
    ];
    let scales = [None, Some(LossScale::Fixed(8.0)), Some(LossScale::Dynamic(DynamicScale::default()))];
    let adaptive = GradientConfig { accumulate: 2, clip_adaptive: Some(0.1), ..plain.clone() };
    let both = GradientConfig { accumulate: 2, clip_value: Some(0.5), ..plain.clone() };
    let mut all = vec![plain.clone(), both, adaptive];
    if !thorough {
        return all;
    }
    for on_nonfinite in [OnNonfinite::Skip, OnNonfinite::Zero, OnNonfinite::Propagate] {
        for clip_value in [None, Some(0.5)] {
            for limit in limits {
                for accumulate in [1, 2] {
                    for loss_scale in scales {
                        let mut gradient =
                            GradientConfig { on_nonfinite, clip_value, accumulate, loss_scale, ..plain.clone() };
                        limit(&mut gradient);
                        all.extend(gradient.check().is_ok().then_some(gradient));
                    }
                }
            }
        }
    }
    all
}

/// Every set of limits of the weights, and with an average of them.
fn weights() -> [(WeightsConfig, Option<EmaConfig>); 4] {
    let plain = WeightsConfig::default();
    [
        (plain.clone(), None),
        (WeightsConfig { clip_value: Some(1.0), ..plain.clone() }, Some(EmaConfig::default())),
        (
            WeightsConfig { max_abs: Some(1.0), ..plain.clone() },
            Some(EmaConfig { warmup: true, ..EmaConfig::default() }),
        ),
        (WeightsConfig { max_norm: Some(1.0), ..plain }, None),
    ]
}

/// Every way to reach memory; bundles in every way where that is asked for, else by vectors and by words.
fn accesses(thorough: bool) -> Vec<Access> {
    let each = |i: usize| Access {
        vector: i & 1 != 0,
        aliased: i & 2 != 0,
        clear: i & 4 != 0,
        listed: i & 16 != 0,
        bundle: NonZeroU32::new(if i & 8 != 0 { 16 } else { 0 }),
    };
    let all = if thorough { (0..24).collect() } else { [0..10, 16..18].into_iter().flatten().collect::<Vec<_>>() };
    all.into_iter().map(each).collect()
}

/// The kernels that a plan needs.
fn add_plan(label: &str, plan: &Plan, thorough: bool, add: &mut impl FnMut(String, Kernel)) {
    let accesses = accesses(thorough);
    let (gradient, weights) = (&plan.gradient, &plan.weights);
    add(format!("prepare {label}"), shader::prepare(plan));
    for code in &plan.variants {
        for by in [ByLine::Units, ByLine::Gradients, ByLine::Rows] {
            add(format!("sum lines {by:?} {label}"), shader::sum_lines(code, gradient, by));
        }
    }
    for (code, access) in plan.variants.iter().flat_map(|code| accesses.iter().map(move |access| (code, *access))) {
        add(format!("scan {access:?} {label}"), shader::scan(code, gradient, access));
        add(format!("watch {access:?} {label}"), shader::watch(code, gradient, access));
        if weights.tensor_limit().is_some() {
            add(format!("weigh {access:?} {label}"), shader::weigh(code, weights, access));
            add(format!("limit {access:?} {label}"), shader::limit(code, weights, access));
        }
        add(format!("update {access:?} {label}"), shader::update(code, gradient, weights, access, false));
        add(format!("watched update {access:?} {label}"), shader::update(code, gradient, weights, access, true));
        if code.averages() {
            add(format!("evaluate {access:?} {label}"), shader::evaluate(code, gradient, access));
        }
        if code.measures() {
            add(format!("measure {access:?} {label}"), shader::measure(code, gradient, access));
        }
        if plan.ema.is_some() {
            add(format!("average {access:?} {label}"), shader::average(code, access));
            add(format!("swap {access:?} {label}"), shader::swap(code, access, false));
        }
    }
}

/// Every distinct kernel, with a name for messages.
fn kernels() -> Vec<(String, Kernel)> {
    let mut all: Vec<(String, Kernel)> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |name: String, kernel: Kernel| {
        if seen.insert(format!("{kernel:?}")) {
            all.push((name, kernel));
        }
    };
    for parts in [Parts::Step, Parts::Gradients, Parts::Updates] {
        add(format!("sum_groups {parts:?}"), shader::sum_groups(parts));
        add(format!("sum_tensors {parts:?}"), shader::sum_tensors(parts));
    }
    add("fold lines".to_owned(), shader::fold_lines(ByLine::Rows));
    add("rows".to_owned(), shader::rows());
    add("start rows".to_owned(), shader::start_rows());
    add("keep".to_owned(), shader::keep());
    add("turn".to_owned(), shader::change_phase());
    for rule in rules::all() {
        for variation in variations(rule.as_ref()) {
            for (index, gradient) in conditionings(rule.name() == "adamw").into_iter().enumerate() {
                for (weights, ema) in &weights()[..if index < 2 { 4 } else { 1 }] {
                    // Storage with the conditionings that change how it is reached.
                    let mut storages = verify::storages();
                    let plain = variation.config.rule.options() == rule.options();
                    storages.truncate(match (index, rule.name()) {
                        (0 | 1, "adamw" | "lamb") if plain => storages.len(),
                        // All of it would be thousands.
                        (0, _) if plain => 4,
                        _ => 1,
                    });
                    let cases =
                        storages.into_iter().flat_map(|storage| BOTH.map(|cautious| (storage.clone(), cautious)));
                    for (storage, cautious) in cases {
                        let mut config = variation.config.clone();
                        config.gradient = gradient.clone();
                        config.weights = weights.clone();
                        config.ema = ema.clone();
                        config.common.cautious = cautious;
                        config.storage = storage.clone();
                        if let Ok(plan) = Plan::new(&config, &[]) {
                            let label =
                                format!("{} {gradient:?} {weights:?} {storage:?} cautious={cautious}", variation.label);
                            add_plan(&label, &plan, index == 0 && plain && rule.name() == "adamw", &mut add);
                        }
                    }
                }
            }
        }
        for storage in verify::storages() {
            let config = OptimizerConfig::from_boxed(rule.boxed()).storage(storage).noise(NoiseConfig::default());
            if let Ok(plan) = Plan::new(&config, &[]) {
                add_plan(&format!("{} with noise", rule.name()), &plan, false, &mut add);
            }
        }
    }
    all
}

fn parsed(name: &str, kernel: &Kernel) -> naga::Module {
    naga::front::wgsl::parse_str(&kernel.source).unwrap_or_else(|e| panic!("{name}:\n{}", e.emit_to_string("")))
}

/// Without any capability the kernels must run on a device without any feature. Those of bundles take what
/// `Gpu::bundle_features` stand for.
fn validated(name: &str, module: &naga::Module) -> ModuleInfo {
    let arrays =
        Capabilities::STORAGE_BUFFER_BINDING_ARRAY | Capabilities::STORAGE_BUFFER_BINDING_ARRAY_NON_UNIFORM_INDEXING;
    let capabilities = if is_bundle(module) { arrays } else { Capabilities::empty() };
    Validator::new(ValidationFlags::all(), capabilities)
        .validate(module)
        .unwrap_or_else(|e| panic!("{name}:\n{:?}", e.into_inner()))
}

fn is_bundle(module: &naga::Module) -> bool {
    module.types.iter().any(|(_, ty)| matches!(ty.inner, naga::TypeInner::BindingArray { .. }))
}

#[test]
fn every_kernel_is_valid_and_translates_to_spirv_msl_and_hlsl() {
    let kernels = kernels();
    for (name, kernel) in &kernels {
        let module = parsed(name, kernel);
        let info = validated(name, &module);
        let constants = kernel.constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let entry = Some((ShaderStage::Compute, kernel.entry));
        let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let [point] = module.entry_points.as_slice() else { panic!("{name}: not one entry point") };
        assert_eq!(point.workgroup_size, [shader::WORKGROUP, 1, 1], "{name}");

        let target = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: kernel.entry.to_owned() };
        let words = spv::write_vec(&module, &info, &spv::Options::default(), Some(&target));
        assert!(!words.unwrap_or_else(|e| panic!("{name}: {e}")).is_empty());

        let target = (ShaderStage::Compute, kernel.entry.to_owned());
        // 2.0 is the oldest language that wgpu asks Metal for.
        let options = msl::Options { lang_version: (2, 0), ..msl::Options::default() };
        let pipeline = msl::PipelineOptions { entry_point: Some(target.clone()), ..msl::PipelineOptions::default() };
        let (text, _) =
            msl::write_string(&module, &info, &options, &pipeline).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.contains("kernel void"), "{name}: {text}");

        // wgpu has no arrays of buffers on DX12.
        if is_bundle(&module) {
            continue;
        }
        let options = hlsl::Options::default();
        let pipeline = hlsl::PipelineOptions { entry_point: Some(target) };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.contains("[numthreads(256, 1, 1)]"), "{name}: {text}");
    }
    // Rules, storages and options only add to this.
    assert!(kernels.len() > 500, "{} kernels", kernels.len());
}

#[test]
fn every_constant_is_an_override_and_takes_both_values() {
    for (name, kernel) in kernels() {
        let module = parsed(&name, &kernel);
        let declared: BTreeSet<_> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
        let given: BTreeSet<_> = kernel.constants.iter().map(|(name, _)| *name).collect();
        assert_eq!(given.len(), kernel.constants.len(), "{name}: a constant is given twice");
        // One that is declared and not given would silently keep its default.
        assert_eq!(given, declared, "{name}");
    }
    for rule in rules::all() {
        let variants = code_variants(rule.as_ref());
        for (constant, _) in rule.constants() {
            for value in BOTH {
                let has = variants.iter().any(|v| v.rule.constants().contains(&(constant, value)));
                assert!(has, "no variant of {} has {constant} = {value}", rule.name());
            }
        }
        for (slot, planned) in rule.slots().iter().enumerate() {
            assert!(variants.iter().any(|v| v.active.contains(&slot)), "{}: {} never kept", rule.name(), planned.name);
        }
    }
}

#[test]
fn an_invalid_kernel_is_found() {
    let rule = rules::by_name("adamw").unwrap();
    let variant = code_variants(rule.as_ref()).remove(0);
    let access = Access { vector: true, ..Access::default() };
    let kernel = shader::update(&variant, &GradientConfig::default(), &WeightsConfig::default(), access, false);
    let broken = |from: &str, to: &str| {
        assert!(kernel.source.contains(from), "{from}");
        let source = kernel.source.replacen(from, to, 1);
        std::panic::catch_unwind(|| {
            let module = parsed("broken", &Kernel { source, ..kernel.clone() });
            validated("broken", &module);
        })
    };
    assert!(broken("h: Hyper", "h: Hyper").is_ok());
    assert!(broken("var<storage, read_write> params", "var<storage, read> params").is_err());
    assert!(broken("exp_avg_sq: vec4<f32>", "exp_avg_sq: vec3<f32>").is_err());
}

#[test]
fn every_file_of_shaders_is_in_some_kernel() {
    let sources: Vec<_> = kernels().into_iter().map(|(_, kernel)| kernel.source).collect();
    let files = wgsl_files(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("shaders"));
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(sources.iter().any(|s| s.contains(text.trim_end())), "{} is used by nothing", file.display());
    }
}

fn wgsl_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { wgsl_files(&path) } else { vec![path] }).collect()
}
