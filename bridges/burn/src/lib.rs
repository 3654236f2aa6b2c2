//! [`wgpu_optim`] as the optimizer of a [Burn](https://burn.dev) training loop: it takes the place of
//! `AdamWConfig::init()`, on Burn's own wgpu device and tensors.
//!
//! ```no_run
//! use burn::optim::{AdamWConfig, GradientsParams};
//! # use burn::{module::Module, tensor::Tensor};
//! # fn train<M: Module>(mut model: M, loss: impl Fn(&M) -> Tensor<1>) -> Result<(), wgpu_optim_burn::Error> {
//! let (device, gpu) = wgpu_optim_burn::open()?;
//! // The model and its data live on `device.autodiff()`.
//! let config = wgpu_optim_burn::adamw(&AdamWConfig::new())?.clip_global_norm(1.0);
//! let mut optimizer = wgpu_optim_burn::Optimizer::new(&gpu, config);
//! for _ in 0..1000 {
//!     let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
//!     model = optimizer.step(1e-3, model, gradients)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Parameters are updated in place, in the buffers that Burn allocated, and gradients are read where
//! Burn's backward pass left them. Burn's tensors are values: where somebody else holds a parameter
//! too, such as a clone of the module, the step goes to a copy, made on the GPU, and the clone stays as
//! it was. The optimizer's state then moves to new buffers, on the GPU too but with a wait, so keep clones
//! out of the loop's every step.
//!
//! Burn's `fusion` feature must be off: a fused tensor is a promise, and has no buffer to hand over.

mod adamw;
mod module;
mod optimizer;
mod refused;
mod tensor;

use burn::tensor::Device;
use cubecl::wgpu::{AutoGraphicsApi, RuntimeOptions, WgpuDevice};
use wgpu_optim::Gpu;

pub use adamw::adamw;
pub use optimizer::Optimizer;
pub use refused::Refused;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine refuses the configuration, a tensor, or the device.
    #[error(transparent)]
    Engine(#[from] wgpu_optim::Error),
    /// Burn cannot open a wgpu device.
    #[error("Burn's wgpu device: {0}")]
    Device(#[from] cubecl::wgpu::WgpuInitError),
    /// A tensor has no f32 buffer on Burn's wgpu device.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// The parameter's path in the module.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An option of Burn's that has no counterpart.
    #[error("{0}")]
    Option(String),
}

/// Opens Burn's default wgpu device, and gives it to both sides. To be called before Burn uses the
/// device.
///
/// An application with wgpu handles of its own calls `Device::wgpu_options().setup(..)` and
/// [`Gpu::new`] with the same handles instead.
///
/// # Errors
/// There is no adapter, or Burn uses the device already.
pub fn open() -> Result<(Device, Gpu), Error> {
    let setup = cubecl::wgpu::try_init_setup::<AutoGraphicsApi>(&WgpuDevice::default(), RuntimeOptions::default())?;
    let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
    Ok((device, Gpu::new(setup.device, setup.queue)))
}
