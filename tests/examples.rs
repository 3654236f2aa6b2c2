//! The examples run, and do what they say.

#![allow(clippy::duplicate_mod, reason = "examples share kernel.rs, and each is a crate of its own")]

mod support;

#[path = "../examples/bring_your_own_device.rs"]
mod bring_your_own_device;
#[path = "../examples/checkpoint_resume.rs"]
mod checkpoint_resume;
#[path = "../examples/cpu_only.rs"]
mod cpu_only;
#[path = "../examples/gaussian_fit/main.rs"]
mod gaussian_fit;
#[path = "../examples/gradient_health.rs"]
mod gradient_health;
#[path = "../examples/mixed_precision.rs"]
mod mixed_precision;
#[path = "../examples/mlp_digits.rs"]
mod mlp_digits;

use gaussian_fit::{Model, PARTS, Params, Picture, Settings};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wgpu_optim::Verdict;

#[test]
fn a_cubic_fits_the_sine_on_the_callers_device() {
    let (device, queue) = pollster::block_on(bring_your_own_device::open()).unwrap();
    let c = bring_your_own_device::run(&device, &queue).unwrap();
    // Least squares over the same 64 points, by NumPy's `polyfit` in float64.
    for (found, expected) in c.iter().zip([0.0, 2.693_660, 0.0, -2.898_507]) {
        assert!((f64::from(*found) - expected).abs() < 1e-3, "{c:?}");
    }
}

#[test]
fn a_plane_is_found_without_a_gpu() {
    let (slopes, intercept) = cpu_only::run().unwrap();
    // 1,024 points with noise of standard deviation 0.06: an error of a slope is about 0.003.
    for (found, expected) in slopes.iter().zip(cpu_only::SLOPES) {
        assert!((found - expected).abs() < 0.02, "{slopes}");
    }
    assert!((intercept - cpu_only::INTERCEPT).abs() < 0.02, "{intercept}");
}

#[test]
fn a_resumed_training_has_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, resumed] = checkpoint_resume::run(&support::gpu(), folder.path()).unwrap();
    assert!(whole.iter().any(|w| *w != 0.0));
    assert!(whole.iter().map(|w| w.to_bits()).eq(resumed.iter().map(|w| w.to_bits())));
}

#[test]
fn health_tells_networks_apart() {
    let verdicts = gradient_health::networks().map(|network| {
        let health = gradient_health::look(&support::gpu(), network).unwrap();
        health.tensors.iter().map(|t| t.verdict).collect::<Vec<_>>()
    });
    assert_eq!(verdicts[0][0], Verdict::Vanishing);
    assert_eq!(verdicts[0].last(), Some(&Verdict::Healthy));
    assert!(verdicts[1].iter().all(|v| *v == Verdict::Healthy), "{:?}", verdicts[1]);
    assert!(verdicts[2].iter().all(|v| *v == Verdict::Exploding), "{:?}", verdicts[2]);
}

#[test]
fn narrow_storage_fits_as_far_as_its_digits_go() {
    // Of a sine, half a step of the format is 5e-4 in f16 and 4e-3 in bf16; by chance it is a whole one.
    let limits = [(16.0, 1e-3), (16.0, 1e-3), (8.0, 4e-3), (6.04, 8e-3)];
    for ((name, storage), (bytes, error)) in mixed_precision::storages().into_iter().zip(limits) {
        let outcome = mixed_precision::run(&support::gpu(), storage).unwrap();
        assert!(outcome.bytes_a_parameter <= bytes, "{name}: {outcome:?}");
        assert!(outcome.error < error, "{name}: {outcome:?}");
        assert_eq!(outcome.skipped > 0, name.contains("loss scale"), "{name}: {outcome:?}");
    }
}

#[test]
fn a_few_epochs_recognise_most_digits() {
    let history = mlp_digits::run(&support::gpu(), 4).unwrap();
    assert!(history.is_sorted_by(|a, b| a.loss > b.loss), "{history:?}");
    assert!(history[3].recognised * 10 > mlp_digits::HELD_BACK * 9, "{history:?}");
}

#[test]
fn gaussians_fit_a_picture_and_keep_their_state() {
    let goal = Picture::sunset(64, 48);
    let settings = Settings { rounds: 3, steps: 30, few: 100, many: 300 };
    let (fitted, history) = gaussian_fit::fit(&support::gpu(), &goal, settings).unwrap();
    assert!(history.is_sorted_by(|a, b| a.psnr < b.psnr), "{history:?}");
    // 100 Gaussians alone stay below 25 dB.
    assert!(history[2].psnr > 27.0, "{history:?}");
    // Whatever the rows: pruned and added on the way, and none lost.
    assert!(history[0].added > 0, "{history:?}");
    assert_eq!(history[1].gaussians, history[0].gaussians - history[0].pruned + history[0].added);
    let off = fitted.rgb.iter().zip(&goal.rgb).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off > 0.0 && off < 1.0, "{off}");
}

#[test]
fn the_gaussians_gradient_is_the_slope_of_the_loss() {
    let goal = Picture::sunset(64, 48);
    let mut params = gaussian_fit::scatter(&goal, &goal.rgb, 40, 0, &mut ChaCha8Rng::seed_from_u64(3)).unwrap();
    // Neither round nor aligned: a turn of a circle changes nothing.
    params[1].chunks_exact_mut(3).for_each(|shape| shape[0] += 0.7);
    let loss = |params: &Params| {
        let residual = Model::new(&support::gpu(), &goal, params).unwrap().residual().unwrap();
        residual.iter().map(|r| f64::from(*r).powi(2)).sum::<f64>() / residual.len() as f64
    };
    let model = Model::new(&support::gpu(), &goal, &params).unwrap();
    model.residual().unwrap();
    for (part, (name, _)) in PARTS.iter().enumerate() {
        // Along the gradient of that part, by a hundredth of a pixel or of a unit.
        let gradient = gaussian_fit::kernel::read(&support::gpu(), model.arena.gradient(name).unwrap()).unwrap();
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let along = |h: f64| {
            let mut moved = params.clone();
            moved[part].iter_mut().zip(&gradient).for_each(|(p, g)| *p += (h * f64::from(*g) / norm) as f32);
            loss(&moved)
        };
        let slope = (along(0.01) - along(-0.01)) / 0.02;
        let error = (slope - norm).abs() / norm;
        // Beyond 3.5 standard deviations, where a Gaussian has fallen to 2e-3, the two passes differ.
        assert!(error < 2e-3, "{name}: slope {slope:e}, gradient's norm {norm:e}");
    }
}
