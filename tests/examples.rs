//! The examples run, and do what they say.

mod support;

#[path = "../examples/bring_your_own_device.rs"]
mod bring_your_own_device;
#[path = "../examples/checkpoint_resume.rs"]
mod checkpoint_resume;
#[path = "../examples/cpu_only.rs"]
mod cpu_only;
#[path = "../examples/gradient_health.rs"]
mod gradient_health;

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
