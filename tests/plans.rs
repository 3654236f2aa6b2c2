//! Plans of models that no test machine holds: pure arithmetic, up to and past 2^33 elements.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use support::gpu;
use wgpu_optim::layout::{
    ARENA_ALIGNMENT, ArenaLayout, BLOCK, DeviceLimits, Formats, GradientPlace, Layout, Placement,
};
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::{Cosine, CosineRestarts, Exponential, Geometric, InverseTime, Linear, OneCycle, Polynomial};
use wgpu_optim::storage::{Format, StateFormat, StorageConfig};
use wgpu_optim::{Arena, EmaConfig, Group, MAX_ELEMENTS, Optimizer, OptimizerConfig, Schedule, TensorSpec};

const GIB: u64 = 1 << 30;

/// A device of 2026: buffers of any length, bindings of 2 GiB.
fn roomy() -> DeviceLimits {
    DeviceLimits { binding: 2 * GIB - 4, buffer: 1 << 40, alignment: 32, workgroups: 65_535, bundle: 0 }
}

fn limits() -> impl Strategy<Value = DeviceLimits> {
    let binding = prop_oneof![Just(128 << 20), Just(GIB), Just(2 * GIB - 4), (1u64 << 27)..(4 * GIB)];
    (binding, prop_oneof![Just(32u64), Just(256)], 1_000u32..=65_535).prop_map(|(binding, alignment, workgroups)| {
        DeviceLimits { binding, buffer: 1 << 40, alignment, workgroups, bundle: 0 }
    })
}

/// Lengths at every limit there is: blocks, chunks, u32.
fn elements() -> impl Strategy<Value = u64> {
    let around = |n: u64| (n - 3)..=(n + 3);
    prop_oneof![
        3 => 1u64..100_000,
        1 => around(BLOCK),
        1 => around(GIB / 4),
        1 => around(1 << 30),
        2 => around(u64::from(u32::MAX)),
        2 => around(1 << 33),
    ]
}

fn placements(elements: &[u64], slots: u64, start: u64) -> Vec<Placement> {
    let slots: Arc<[StateFormat]> = vec![StateFormat::F32; slots as usize].into();
    let (params, gradients) = (Format::F32, Format::F32);
    let mut at = start;
    let place = |(tensor, elements): (usize, &u64)| {
        let offset = at.next_multiple_of(ARENA_ALIGNMENT);
        at = offset + elements * 4;
        let slots = slots.clone();
        Placement { tensor, elements: *elements, variant: 0, params, gradients, slots, buffer: 0, offset, padded: true }
    };
    elements.iter().enumerate().map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Byte offsets and totals past u32: every element in one block, every word of the kernels' own indices within
    /// its binding, no index past u32 within a window.
    #[test]
    fn vast_tensors_are_laid_out_within_every_limit(
        elements in prop::collection::vec(elements(), 1..4),
        slots in 0u64..=5,
        start in prop_oneof![Just(0u64), Just(1 << 32), Just(1 << 36)],
        limits in limits(),
    ) {
        let placements = placements(&elements, slots, start);
        let layout = Layout::new(&placements, &limits).unwrap();
        let mut next = vec![0u64; elements.len()];
        let mut blocks = layout.blocks.iter().collect::<Vec<_>>();
        blocks.sort_by_key(|b| (b.tensor, b.number));
        for block in blocks {
            prop_assert_eq!(block.number * BLOCK, next[block.tensor]);
            next[block.tensor] += u64::from(block.len);
        }
        prop_assert_eq!(&next, &elements);
        for window in &layout.windows {
            prop_assert!(window.bytes.end - window.bytes.start <= limits.binding.min(GIB));
            prop_assert!(window.bytes.start.is_multiple_of(limits.alignment));
            prop_assert!(window.state * 4 <= limits.binding.min(GIB));
            for piece in window.runs.iter().flat_map(|run| &run.pieces) {
                let place = &placements[piece.tensor];
                for row in [piece.blocks.start, piece.blocks.end - 1] {
                    let block = &layout.blocks[row as usize];
                    // Where the kernel reaches is where the tensor lies, in bytes past u32.
                    let reached = window.bytes.start + u64::from(block.start) * 4;
                    prop_assert_eq!(reached, place.offset + block.number * BLOCK * 4);
                    let state = slots * u64::from(StateFormat::F32.words(block.len));
                    prop_assert!(u64::from(block.state) + state <= window.state);
                }
            }
        }
        prop_assert_eq!(
            layout.state_bytes(),
            slots * elements.iter().map(|n| n.next_multiple_of(4) * 4).sum::<u64>()
        );
        let gradients: Vec<_> = placements
            .iter()
            .map(|p| Some(GradientPlace { buffer: 1, offset: p.offset, padded: true }))
            .collect();
        let spans = layout.spans(&gradients, &limits);
        for span in &spans {
            prop_assert!(span.gradient_bytes.end - span.gradient_bytes.start <= limits.binding);
            let [x, y] = limits.dispatch(span.blocks.len() as u32);
            prop_assert!(x <= limits.workgroups && u64::from(x) * u64::from(y) >= span.blocks.len() as u64);
        }
        prop_assert_eq!(spans.iter().map(|s| s.blocks.len()).sum::<usize>(), layout.blocks.len());
    }

    #[test]
    fn factors_of_schedules_are_numbers_at_every_step(
        kind in 0usize..8,
        total in 1u64..100_000,
        warmup in 0u64..1_000,
        lr in 1e-12f64..1e3,
        share in 0f64..1.0,
        steps in prop::collection::vec(prop_oneof![0u64..200_000, 0u64..u64::from(u32::MAX)], 1..40),
    ) {
        let min_lr = lr * share;
        let schedule: Schedule = match kind {
            0 => Cosine { total_steps: total, min_lr }.into(),
            1 => CosineRestarts { period: total, min_lr, ..CosineRestarts::default() }.into(),
            2 => Exponential { gamma: share.max(1e-3) }.into(),
            3 => InverseTime { decay: share }.into(),
            4 => Linear { total_steps: total, end_factor: share }.into(),
            5 => Polynomial { total_steps: total, power: 1.0 + share }.into(),
            6 => Geometric { total_steps: total, min_lr: min_lr.max(lr * 1e-6) }.into(),
            _ => OneCycle { max_lr: lr, total_steps: total.max(2), ..OneCycle::default() }.into(),
        };
        let mut schedule = schedule;
        schedule.warmup_steps = warmup;
        prop_assume!(schedule.check(lr).is_ok());
        for step in steps {
            let now = schedule.lr(step, lr);
            prop_assert!(now.is_finite() && now >= 0.0 && now <= lr * (1.0 + 1e-9), "{now} at step {step}");
        }
    }
}

#[test]
fn only_tensors_that_are_updated_ask_for_passes() {
    let specs = [TensorSpec::new("w", [4, 4]), TensorSpec::new("other", [3]), TensorSpec::new("empty", [0])];
    for (rule, of) in [("lamb", Plan::measures as fn(&Plan) -> bool), ("schedule_free_adamw", Plan::averages)] {
        let needs = |pattern: &str, frozen: bool| {
            let mut group = Group::matching(pattern);
            group.rule = Some(wgpu_optim::rules::by_name(rule).unwrap());
            group.frozen = frozen;
            of(&Plan::new(&OptimizerConfig::new(AdamW::default()).group(group), &specs).unwrap())
        };
        assert!(needs("other", false), "{rule}");
        assert!(!needs("other", true) && !needs("empty", false), "{rule}");
        let all_else = OptimizerConfig::named(rule).unwrap().group({
            let mut group = Group::matching("*");
            group.rule = Some(Box::new(AdamW::default()));
            group
        });
        assert!(!of(&Plan::new(&all_else, &specs).unwrap()), "{rule} serves no tensor");
    }
}

#[test]
fn a_model_of_2_to_the_33_elements_is_planned_and_told_in_bytes() {
    let layers = 64u64;
    let rows = (1u64 << 33) / layers / 8192;
    let specs: Vec<_> = (0..layers).map(|i| TensorSpec::new(format!("layer{i}.weight"), [rows, 8192])).collect();
    let config = OptimizerConfig::new(AdamW::default());
    let plan = Plan::new(&config, &specs).unwrap();
    assert_eq!(plan.tensors.iter().map(|t| t.elements).sum::<u64>(), 1 << 33);
    // Two slots; parameters and gradients.
    assert_eq!(Optimizer::memory(&config, &specs, &roomy()).unwrap().state, 8 << 33);
    assert_eq!(Arena::bytes(&config, &specs, &roomy()).unwrap(), 8 << 33);
    assert_eq!(plan.bytes_moved(), 32 << 33);
    println!("reliability: largest plan checked, elements of one tensor: {}", (1u64 << 33) + 3);
    // One tensor of them all, and one that no device can have.
    let whole = [TensorSpec::new("whole", [1 << 33])];
    assert_eq!(Optimizer::memory(&config, &whole, &roomy()).unwrap().state, 8 << 33);
    let short = DeviceLimits { buffer: GIB, ..roomy() };
    assert!(Optimizer::memory(&config, &whole, &short).unwrap_err().to_string().contains("whole"));
    assert!(ArenaLayout::new(&[TensorSpec::new("past", [u64::MAX, 2])], &[Formats::default()], &roomy()).is_err());
}

/// Sizes whose sums of bytes would leave 64 bits are refused by name, never added up wrongly.
#[test]
fn shapes_past_what_can_be_added_up_are_refused() {
    let config = OptimizerConfig::new(AdamW::default());
    let wide = DeviceLimits { binding: u64::MAX, buffer: u64::MAX, ..roomy() };
    let refused = |specs: &[TensorSpec], name: &str| {
        let error = Plan::new(&config, specs).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {name:?}")) && error.contains("too many elements"), "{error}");
        assert!(Optimizer::memory(&config, specs, &wide).is_err());
        assert!(Arena::bytes(&config, specs, &wide).is_err());
        assert!(wgpu_optim::cpu::CpuOptimizer::<f32>::new(&config, specs).is_err());
    };
    let spec = |name: &str, shape: &[u64]| TensorSpec::new(name, shape);
    for shape in
        [[1u64 << 60, 1, 1], [1 << 30, 1 << 30, 1], [u64::MAX, 2, 1], [0, 1 << 40, 1 << 40], [1 << 40, 1 << 40, 0]]
    {
        assert_eq!(spec("w", &shape).elements(), None, "{shape:?}");
        refused(&[spec("w", &shape)], "w");
    }
    // Each by itself is fine, together they are not.
    let half = MAX_ELEMENTS / 2;
    refused(&[spec("a", &[half]), spec("b", &[half]), spec("c", &[1])], "c");
    for rule in wgpu_optim::rules::all() {
        let mut config = OptimizerConfig::from_boxed(rule).ema(EmaConfig::default());
        config.gradient.accumulate = 2;
        config.gradient.clip_tensor_norm = Some(1.0);
        config.weights.max_norm = Some(1.0);
        let plan = Plan::new(&config, &[spec("a", &[half]), spec("b", &[half]), spec("none", &[0, half])]).unwrap();
        assert!(plan.bytes_moved() / MAX_ELEMENTS >= 28 && plan.bytes_resident() / MAX_ELEMENTS >= 8);
    }
    // Without a plan, too.
    let vast: Vec<_> = (0..8).map(|i| spec(&format!("t{i}"), &[MAX_ELEMENTS])).collect();
    let arena = ArenaLayout::new(&vast, &[Formats::default(); 8], &wide).unwrap();
    assert_eq!(arena.segments.iter().map(|s| s.elements).sum::<u64>(), 8 * MAX_ELEMENTS);
    let far = placements(&[1 << 57; 9], 1, 0);
    assert!(Layout::new(&far, &wide).is_err());
}

/// What moves the sizes of tables: groups, sums by tensor and by line, codes, counts of averages, frozen tensors.
fn configurations() -> Vec<(String, OptimizerConfig)> {
    let mut all: Vec<(String, OptimizerConfig)> = wgpu_optim::rules::all()
        .into_iter()
        .map(|rule| (rule.name().to_owned(), OptimizerConfig::from_boxed(rule)))
        .collect();
    let adamw = || OptimizerConfig::new(AdamW::default());
    let mut clipped = adamw();
    clipped.gradient.clip_adaptive = Some(0.1);
    clipped.gradient.accumulate = 2;
    all.push(("by unit".to_owned(), clipped));
    let mut by_tensor = adamw().ema(EmaConfig::default());
    by_tensor.gradient.clip_tensor_norm = Some(1.0);
    by_tensor.common.cautious = true;
    all.push(("by tensor".to_owned(), by_tensor));
    let groups = adamw()
        .group(Group::matching("t1").set("lr", 0.1))
        .group(Group::matching("t2").frozen())
        .group(Group::matching("t4").set("amsgrad", true));
    all.push(("groups".to_owned(), groups));
    for params in [Format::F32, Format::Bf16] {
        let storage = StorageConfig { params, state: StateFormat::Q8, ..StorageConfig::default() };
        all.push((format!("{storage:?}"), adamw().storage(storage)));
    }
    all
}

#[test]
fn the_memory_told_is_the_memory_asked_for() {
    let gpu = gpu();
    let shapes: [&[u64]; 6] = [&[5], &[300, 1000], &[4097], &[0], &[70_001], &[37, 53]];
    let specs: Vec<_> = shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("t{i}"), *shape)).collect();
    for (name, config) in configurations() {
        let told = Optimizer::memory(&config, &specs, gpu.limits()).unwrap();
        // Other tests of this file create nothing on the device.
        let before = gpu.objects_created().bytes;
        let arena = Arena::for_config(&gpu, &config, specs.clone()).unwrap();
        let asked = gpu.objects_created().bytes - before;
        assert_eq!(asked, Arena::bytes(&config, &specs, gpu.limits()).unwrap(), "{name}");
        let before = gpu.objects_created().bytes;
        let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
        assert_eq!(optimizer.layout().state_bytes(), told.state, "{name}");
        support::submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
        assert_eq!(gpu.objects_created().bytes - before, told.total(), "{name}: {told:?}");
    }
}

/// A plan takes no longer than a look at each tensor and each group: neither is held against all of the other.
#[test]
fn ten_thousand_tensors_in_a_thousand_groups_are_planned_at_once() {
    let specs: Vec<_> = (0..10_000).map(|t| TensorSpec::new(format!("layers.{}.w{}", t / 10, t % 10), [3])).collect();
    let group = |g: usize| Group::matching(format!("layers.{g}.*")).set("lr", 1e-3 * (g + 1) as f64);
    let config = (0..1_000).map(group).fold(OptimizerConfig::new(AdamW::default()), OptimizerConfig::group);
    let since = std::time::Instant::now();
    let plan = Plan::new(&config, &specs).unwrap();
    let spent = since.elapsed();
    println!("planned in {spent:?}");
    assert_eq!((plan.groups.len(), plan.tensors[9_999].group), (1_001, 1_000));
    // A fiftieth of it in a release build; a hundred times as long where each glob is held against each name.
    assert!(spent < std::time::Duration::from_secs(2), "{spent:?}");
}
