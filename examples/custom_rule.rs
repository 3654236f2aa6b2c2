//! A rule of one's own: Signum (Bernstein et al. 2018), the sign of a moving average of gradients. It
//! gets groups, clipping, schedules, saving and cross-checks as the library's rules do.
//!
//! `cargo run --release --example custom_rule`

use wgpu_optim::prelude::*;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{Arena, Gpu, Group, Optimizer, OptimizerConfig, TensorSpec, verify, wgpu};

wgpu_optim::options! {
    /// The options, with their defaults.
    pub struct Signum {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
        /// The share of the old average that stays.
        pub beta: f64 = 0.9, in RATE,
    }
}

wgpu_optim::rule! { Signum as rule {
    name: "signum",
    reference: "Bernstein et al. 2018",
    decay: Decay::Decoupled(0.0),
    slots: [Slot::signed("exp_avg")],
    wgsl: "struct Hyper {
            beta: f32,
            beta_complement: f32,
        }
        struct State {
            exp_avg: vec4<f32>,
        }
        fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
            (*s).exp_avg = average((*s).exp_avg, e.g, h.beta, h.beta_complement);
            return sign((*s).exp_avg);
        }",
    scalars: |_, _| SignumHyper { beta: rule.beta, beta_complement: 1.0 - rule.beta },
} }

impl Twin for Signum {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = SignumHyper<F>;

    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &SignumHyper<F>) -> F {
        s[0] = average(s[0], e.g, h.beta, h.beta_complement);
        if s[0] == F::zero() { s[0] } else { s[0].signum() }
    }
}

/// Minimises the distance of `w` from 3 by steps of the GPU.
pub fn run(gpu: &Gpu) -> wgpu_optim::Result<Vec<f32>> {
    verify::check_rule(gpu, &Signum::default())?;

    let arena = Arena::new(gpu, [TensorSpec::new("w", [5]), TensorSpec::new("w.bias", [1])])?;
    let config = OptimizerConfig::new(Signum { lr: 0.05, ..Signum::default() })
        .group(Group::matching("*.bias").set("lr", 0.0))
        .clip_global_norm(1.0)
        .schedule(Cosine { total_steps: 200, min_lr: 1e-4 });
    let mut optimizer = Optimizer::new(gpu, &config, arena.tensors().to_vec())?;
    for _ in 0..200 {
        let w = &optimizer.params_blocking()?[0];
        let gradient: Vec<f32> = w.iter().map(|w| w - 3.0).collect();
        arena.write_gradient("w", &gradient)?;
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        optimizer.step(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }
    Ok(optimizer.params_blocking()?.remove(0))
}

#[allow(dead_code, reason = "a test runs `run` by itself")]
fn main() -> wgpu_optim::Result<()> {
    println!("w = {:?}", run(&Gpu::headless()?)?);
    Ok(())
}
