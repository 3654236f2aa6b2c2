//! What a run goes on with after another configuration or a saved state: rates, schedules, the loss scale, the
//! average of the weights. Arithmetic of the host, the same for both backends.

mod support;

use proptest::prelude::*;
use support::oracle::Run;
use wgpu_optim::plan::Plan;
use wgpu_optim::rates::{GroupState, Rates, RatesState};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::schedule::{Constant, Cosine, Exponential, Geometric, Mode, Plateau, PlateauState, Schedule};
use wgpu_optim::{
    DynamicScale, EmaConfig, Error, Group, LossScale, OptimizerConfig, OptimizerState, Result, TensorSpec,
};

fn specs() -> Vec<TensorSpec> {
    vec![TensorSpec::new("w", [2]), TensorSpec::new("b", [1])]
}

/// Steps are −lr·g.
fn sgd(lr: f64) -> OptimizerConfig {
    OptimizerConfig::new(Sgd { lr, ..Sgd::default() })
}

fn run(config: &OptimizerConfig) -> Run<f32> {
    Run::new(config, &specs(), &[vec![1.0, 2.0], vec![3.0]])
}

fn step(run: &mut Run<f32>) -> f64 {
    run.step(&[Some(vec![1.0, 1.0]), Some(vec![1.0])]).lr
}

fn rates(config: &OptimizerConfig) -> Rates {
    Rates::new(&Plan::new(config, &specs()).unwrap())
}

/// What is read of the file that a state makes.
fn through_a_file(state: &OptimizerState, config: &OptimizerConfig) -> Result<OptimizerState> {
    OptimizerState::from_safetensors(&state.to_safetensors().unwrap(), &Plan::new(config, &specs()).unwrap())
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(words), "{error:?} does not say {words:?}");
}

#[test]
fn another_schedule_acts_though_the_groups_stay() {
    let mut run = run(&sgd(0.5));
    step(&mut run);
    run.optimizer.reconfigure(&sgd(0.5).schedule(Exponential { gamma: 0.5 }), &specs()).unwrap();
    assert_eq!([step(&mut run), step(&mut run)], [0.25, 0.125], "at the count of steps so far");
    // A rate that was set stays, under the next schedule too.
    run.optimizer.set_lr(8.0).unwrap();
    run.optimizer.reconfigure(&sgd(0.5).schedule(Constant {}), &specs()).unwrap();
    assert_eq!(step(&mut run), 8.0);
    run.optimizer.set_lr(0.0).unwrap();
    let geometric = sgd(0.5).schedule(Geometric { total_steps: 9, min_lr: 1e-3 });
    says(run.optimizer.reconfigure(&geometric, &specs()), "lr");
    assert_eq!(step(&mut run), 0.0, "nothing is changed");
}

#[test]
fn maximize_acts_though_the_groups_stay() {
    let mut run = run(&sgd(0.5));
    step(&mut run);
    let mut ascent = sgd(0.5);
    ascent.common.maximize = true;
    run.optimizer.reconfigure(&ascent, &specs()).unwrap();
    step(&mut run);
    assert_eq!(run.params, [vec![1.0, 2.0], vec![3.0]], "down and up again");
}

#[test]
fn only_a_plateau_goes_on_from_a_plateau() {
    let plateau = sgd(0.5).schedule(Plateau { patience: 0, ..Plateau::default() });
    let mut run = run(&plateau);
    for _ in 0..3 {
        run.optimizer.report_loss(1.0).unwrap();
    }
    let state = run.optimizer.state();
    assert!(state.plateau.factor < 0.1);
    run.optimizer.reconfigure(&sgd(0.5).schedule(Exponential { gamma: 0.5 }), &specs()).unwrap();
    assert_eq!(step(&mut run), 0.5);
    let mut other = self::run(&sgd(0.5));
    other.optimizer.load_state(&state).unwrap();
    assert_eq!(step(&mut other), 0.5);
}

#[test]
fn a_plateau_factor_is_a_share() {
    let plateau = sgd(0.5).schedule(Plateau::default());
    let mut run = run(&plateau);
    for factor in [0.0, 0.5, 1.0] {
        let mut state = run.optimizer.state();
        state.plateau.factor = factor;
        run.optimizer.load_state(&through_a_file(&state, &plateau).unwrap()).unwrap();
    }
    for factor in [-0.5, 1.5, f64::NAN, f64::INFINITY] {
        let mut state = run.optimizer.state();
        state.plateau.factor = factor;
        says(run.optimizer.load_state(&state), "plateau factor");
    }
}

#[test]
fn counts_of_a_plateau_may_be_long() {
    let plateau = sgd(0.5).schedule(Plateau { patience: 0, cooldown: 1 << 40, ..Plateau::default() });
    let mut run = run(&plateau);
    for _ in 0..3 {
        run.optimizer.report_loss(1.0).unwrap();
    }
    let state = run.optimizer.state();
    assert!(state.plateau.cooldown > u64::from(u32::MAX));
    assert_eq!(through_a_file(&state, &plateau).unwrap(), state);
}

#[test]
fn ratios_come_back_from_a_rate_of_zero() {
    let config = sgd(0.5).group(Group::matching("b").set("lr", 2.0));
    let mut run = run(&config);
    let group = |run: &Run<f32>| run.optimizer.rates().groups()[1].lr;
    run.optimizer.set_lr(0.0).unwrap();
    assert_eq!(group(&run), 0.0);
    // Over a file too.
    let mut resumed = self::run(&config);
    resumed.optimizer.load_state(&through_a_file(&run.optimizer.state(), &config).unwrap()).unwrap();
    for run in [&mut run, &mut resumed] {
        run.optimizer.set_lr(0.0).unwrap();
        run.optimizer.set_lr(0.25).unwrap();
        assert_eq!(group(run), 1.0);
    }
    // One that is set meanwhile has what it was set to, and no ratio.
    run.optimizer.set_lr(0.0).unwrap();
    run.optimizer.set_group_lr("b", 7.0).unwrap();
    says(run.optimizer.set_lr(0.5), "no ratio to a base rate of 0");
    assert_eq!((group(&run), run.optimizer.rates().base()), (7.0, 0.0), "nothing is changed");
    run.optimizer.set_group_lr("b", 0.0).unwrap();
    run.optimizer.set_lr(0.5).unwrap();
    assert_eq!(group(&run), 0.0, "set to stay at rest");
    assert_eq!(run.optimizer.rates().base(), 0.5);
}

#[test]
fn a_group_rate_past_f32_is_refused_before_anything_changes() {
    let mut run = run(&sgd(1e-3).group(Group::matching("b").set("lr", 1.0)));
    let before = run.optimizer.rates().groups().to_vec();
    says(run.optimizer.set_lr(1e38), "groups.\"b\"");
    assert_eq!(run.optimizer.rates().groups(), before);
}

#[test]
fn a_schedule_moves_groups_beside_a_base_rate_of_zero() {
    let at_rest = |schedule: Schedule| rates(&sgd(0.0).group(Group::matching("b").set("lr", 1.0)).schedule(schedule));
    assert_eq!(at_rest(Exponential { gamma: 0.5 }.into()).factor(3), 0.125);
    assert_eq!(at_rest(Schedule::default().with_warmup(4)).factor(0), 0.25);
    // No share of nothing.
    let cosine = at_rest(Cosine { total_steps: 10, min_lr: 0.1 }.into());
    assert_eq!(cosine.factor(0), 1.0);
    assert!(cosine.factor(10) < 1e-200);
    assert!((cosine.factor(5) - 0.5).abs() < 1e-15);
    let mut plateau = at_rest(Plateau { patience: 0, min_lr: 0.1, ..Plateau::default() }.into());
    for _ in 0..2 {
        plateau.report_loss(1.0).unwrap();
    }
    assert_eq!(plateau.factor(0), 0.1);
}

#[test]
fn messages_call_kinds_and_scales_as_configurations_do() {
    let error = rates(&sgd(0.5).schedule(Cosine { total_steps: 9, min_lr: 0.0 })).report_loss(1.0).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("not \"cosine\"") && !text.contains("total_steps"), "{text}");
    let scale = |scale| LossScale::check(&scale).unwrap_err().to_string();
    assert!(scale(LossScale::Fixed(0.0)).ends_with("got 0.0"), "{}", scale(LossScale::Fixed(0.0)));
    let dynamic = DynamicScale { growth_factor: 0.5, ..DynamicScale::default() };
    let text = scale(LossScale::Dynamic(dynamic));
    assert!(text.ends_with("growth_factor must be at least 1, got 0.5"), "{text}");
}

fn scaled(init: f64) -> OptimizerConfig {
    let mut config = sgd(0.5);
    let dynamic = DynamicScale { init, growth_interval: 4, ..DynamicScale::default() };
    config.gradient.loss_scale = Some(LossScale::Dynamic(dynamic));
    config
}

#[test]
fn a_dynamic_scale_starts_where_none_moved_before() {
    for before in [None, Some(LossScale::Fixed(8.0))] {
        let mut config = sgd(0.5);
        config.gradient.loss_scale = before;
        let mut run = run(&config);
        step(&mut run);
        let mut resumed = self::run(&scaled(64.0));
        resumed.optimizer.load_state(&through_a_file(&run.optimizer.state(), &scaled(64.0)).unwrap()).unwrap();
        run.optimizer.reconfigure(&scaled(64.0), &specs()).unwrap();
        assert_eq!((run.optimizer.loss_scale(), resumed.optimizer.loss_scale()), (64.0, 64.0), "{before:?}");
    }
    // One that moved goes on, also from a scale of 1.
    let mut run = run(&scaled(2.0));
    run.step(&[Some(vec![f32::NAN, 1.0]), None]);
    assert_eq!(run.optimizer.loss_scale(), 1.0);
    let mut resumed = self::run(&scaled(64.0));
    resumed.optimizer.load_state(&through_a_file(&run.optimizer.state(), &scaled(64.0)).unwrap()).unwrap();
    run.optimizer.reconfigure(&scaled(64.0), &specs()).unwrap();
    assert_eq!((run.optimizer.loss_scale(), resumed.optimizer.loss_scale()), (1.0, 1.0));
}

#[test]
fn good_steps_cannot_overflow() {
    let mut run = run(&scaled(64.0));
    let mut state = run.optimizer.state();
    state.good_steps = u64::from(u32::MAX);
    run.optimizer.load_state(&state).unwrap();
    step(&mut run);
    assert_eq!((run.optimizer.loss_scale(), run.optimizer.state().good_steps), (128.0, 0));
    state.good_steps = 1 << 32;
    says(run.optimizer.load_state(&state), "steps since the loss scale changed");
}

#[test]
fn an_average_keeps_its_interval() {
    let every = |interval| {
        let ema = EmaConfig { interval, ..EmaConfig::default() };
        OptimizerConfig::new(AdamW::default()).ema(ema)
    };
    let mut run = run(&every(1));
    let fresh = run.optimizer.state();
    step(&mut run);
    let state = run.optimizer.state();
    let words = "ema.interval: the weights were averaged every 1 steps, and cannot be every 5";
    says(through_a_file(&state, &every(5)), words);
    says(self::run(&every(5)).optimizer.load_state(&state), words);
    let before = run.optimizer.state();
    let refused = run.optimizer.reconfigure(&every(5), &specs());
    assert!(matches!(refused, Err(Error::State { .. })), "{refused:?}");
    assert_eq!(run.optimizer.state(), before);
    // Before the first step there is nothing to lose.
    self::run(&every(5)).optimizer.load_state(&fresh).unwrap();
    assert_eq!(through_a_file(&state, &every(1)).unwrap(), state);
}

/// PyTorch's `ReduceLROnPlateau(mode, patience=0, factor=0.5)` at lr 1, told these figures in this order:
/// `best` and the rate after each.
#[test]
fn infinite_figures_are_taken_as_pytorch_takes_them() {
    const INF: f64 = f64::INFINITY;
    let cases = [
        (
            Mode::Min,
            [INF, 1.0, f64::NAN, -INF, -INF],
            [None, Some(1.0), Some(1.0), Some(-INF), Some(-INF)],
            [0.5, 0.5, 0.25, 0.25, 0.125],
        ),
        (
            Mode::Max,
            [-INF, 1.0, f64::NAN, INF, INF],
            [None, Some(1.0), Some(1.0), Some(INF), Some(INF)],
            [0.5, 0.5, 0.25, 0.25, 0.125],
        ),
        (Mode::Max, [INF, 1.0, 2.0, INF, -INF], [Some(INF); 5], [1.0, 0.5, 0.25, 0.125, 0.0625]),
    ];
    for (mode, figures, bests, expected) in cases {
        let config = sgd(1.0).schedule(Plateau { mode, patience: 0, factor: 0.5, ..Plateau::default() });
        let mut run = run(&config);
        for ((figure, best), lr) in figures.into_iter().zip(bests).zip(expected) {
            run.optimizer.report_loss(figure).unwrap();
            let state = run.optimizer.state();
            assert_eq!((state.plateau.best, state.plateau.factor), (best, lr), "{mode:?} after {figure}");
            // And what is remembered is read back.
            assert_eq!(through_a_file(&state, &config).unwrap(), state);
        }
    }
    let config = sgd(1.0).schedule(Plateau::default());
    let mut state = run(&config).optimizer.state();
    state.plateau.best = Some(f64::NAN);
    says(state.check(&Plan::new(&config, &specs()).unwrap()), "best figure is NaN");
    state.plateau = PlateauState { bad_reports: u64::MAX, ..PlateauState::default() };
    let mut run = run(&config);
    run.optimizer.load_state(&state).unwrap();
    run.optimizer.report_loss(f64::NAN).unwrap();
}

#[test]
fn a_plateau_keeps_to_its_least_rate_under_another_base_rate() {
    let config = sgd(1.0).schedule(Plateau { patience: 0, factor: 0.1, min_lr: 0.05, ..Plateau::default() });
    let mut rates = rates(&config);
    for _ in 0..2 {
        rates.report_loss(1.0).unwrap();
    }
    assert_eq!(rates.lr(0), 0.1);
    rates.set_lr(0.2).unwrap();
    assert_eq!(rates.lr(0), 0.05, "not 0.02");
    rates.report_loss(1.0).unwrap();
    assert_eq!(rates.lr(0), 0.05);
    // One set below stays where it was set.
    rates.set_lr(0.01).unwrap();
    assert_eq!(rates.lr(0), 0.01);
    rates.report_loss(1.0).unwrap();
    assert_eq!(rates.lr(0), 0.01);
    rates.set_lr(4.0).unwrap();
    assert_eq!(rates.lr(0), 0.4, "falls are shares");
}

/// Numbers that a file could lose.
fn odd() -> impl Strategy<Value = f64> {
    let odd = [0.0, -0.0, 5e-324, 1e-300, 3.4e38, 1e300, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    prop::sample::select(odd.to_vec())
}

/// Any number: of any size and sign, and none.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![1 => odd(), 1 => any::<f64>(), 12 => 0.0..1.0]
}

fn words() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 2)
}

proptest! {
    /// Whatever a state holds that may be loaded, its file gives back, to the bit.
    #[test]
    fn every_number_of_a_state_is_read_back(
        counts in prop::array::uniform3(prop_oneof![0..9u64, Just(u64::from(u32::MAX))]),
        scale in number(),
        plateau in (number(), prop::option::of(odd()), any::<u64>(), any::<u64>()),
        lr in number(),
        groups in prop::collection::vec((number(), number(), prop::option::of(number())), 2),
        sums in prop::array::uniform2(number()),
        slots in prop::collection::vec(words(), 4),
    ) {
        let config = OptimizerConfig::named("schedule_free_adamw").unwrap().group(Group::matching("b"));
        let mut config = config.schedule(Plateau::default());
        config.gradient.loss_scale = Some(LossScale::Dynamic(DynamicScale::default()));
        let plan = Plan::new(&config, &specs()).unwrap();
        let mut state = run(&config).optimizer.state();
        [state.steps_taken, state.steps_skipped, state.good_steps] = counts;
        state.loss_scale = scale;
        let (factor, best, bad_reports, cooldown) = plateau;
        state.plateau = PlateauState { factor, best, bad_reports, cooldown };
        let patterns = [None, Some("b".to_owned())].into_iter();
        let group = |(pattern, (lr, weight_decay, ratio))| GroupState {
            pattern,
            lr,
            weight_decay,
            ratio,
            options: Default::default(),
        };
        state.rates = Some(RatesState { lr, groups: patterns.zip(groups).map(group).collect() });
        let mut slots = slots.into_iter();
        for (tensor, sum) in state.tensors.iter_mut().zip(sums) {
            tensor.steps = counts[0];
            tensor.weight_sum = sum;
            for (_, values) in &mut tensor.slots {
                let len = values.len();
                *values = slots.next().unwrap()[..len].to_vec();
            }
        }
        let read = through_a_file(&state, &config);
        prop_assert_eq!(state.check(&plan).is_ok(), read.is_ok(), "{:?}", &read);
        if let Ok(read) = read {
            // NaN equals nothing, −0 equals 0: as text both show.
            prop_assert_eq!(format!("{read:?}"), format!("{state:?}"));
            let bits = |state: &OptimizerState| -> Vec<Vec<u32>> {
                let slots = state.tensors.iter().flat_map(|t| &t.slots);
                slots.map(|(_, values)| values.iter().map(|x| x.to_bits()).collect()).collect()
            };
            prop_assert_eq!(bits(&read), bits(&state));
        }
    }
}
