//! An optimizer on either backend, fed from the host.

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::plan::Plan;
use wgpu_optim::{Arena, Gpu, Optimizer, OptimizerConfig, OptimizerState, Report, TensorSpec};

use crate::error::{Error, Result};

#[derive(Debug)]
pub enum Engine {
    Gpu { gpu: Gpu, arena: Arena, optimizer: Box<Optimizer> },
    Cpu { params: Vec<ArrayD<f32>>, optimizer: Box<CpuOptimizer<f32>> },
}

impl Engine {
    /// An optimizer for those parameters: on the device, or on the CPU where there is none.
    pub fn new(
        gpu: Option<&Gpu>,
        config: &OptimizerConfig,
        specs: &[TensorSpec],
        params: Vec<Vec<f32>>,
    ) -> Result<Self> {
        let Some(gpu) = gpu else {
            let optimizer = Box::new(CpuOptimizer::new(config, specs)?);
            let arrays = specs.iter().zip(params).map(|(spec, values)| {
                ArrayD::from_shape_vec(shape(spec), values)
                    .map_err(|e| Error::input(format!("tensor {:?}: {e}", spec.name)))
            });
            return Ok(Self::Cpu { params: arrays.collect::<Result<_>>()?, optimizer });
        };
        // Before memory is asked for: a configuration that does not fit is found sooner.
        Plan::new(config, specs)?;
        let arena = Arena::for_config(gpu, config, specs.to_vec())?;
        for (spec, values) in specs.iter().zip(&params) {
            arena.write_params(&spec.name, values)?;
        }
        let optimizer = Box::new(Optimizer::new(gpu, config, arena.tensors().to_vec())?);
        Ok(Self::Gpu { gpu: gpu.clone(), arena, optimizer })
    }

    pub fn plan(&self) -> &Plan {
        match self {
            Self::Gpu { optimizer, .. } => optimizer.plan(),
            Self::Cpu { optimizer, .. } => optimizer.plan(),
        }
    }

    pub fn load_state(&mut self, state: &OptimizerState) -> Result<()> {
        match self {
            Self::Gpu { optimizer, .. } => optimizer.load_state(state)?,
            Self::Cpu { optimizer, .. } => optimizer.load_state(state)?,
        }
        Ok(())
    }

    /// Goes on with another configuration; state follows where the tensors' rules are the same.
    pub fn reconfigure(&mut self, config: &OptimizerConfig) -> Result<()> {
        match self {
            Self::Gpu { arena, optimizer, .. } => optimizer.reconfigure(config, arena.tensors().to_vec())?,
            Self::Cpu { optimizer, .. } => {
                let specs: Vec<_> = optimizer.plan().tensors.iter().map(|t| t.spec.clone()).collect();
                optimizer.reconfigure(config, &specs)?;
            }
        }
        Ok(())
    }

    /// Takes a step, or a micro-batch of one, with those gradients in the order of the tensors. A tensor without one
    /// is left out of it.
    pub fn step(&mut self, gradients: &[Option<Vec<f32>>]) -> Result<Option<Report>> {
        match self {
            Self::Gpu { gpu, arena, optimizer } => {
                for (index, (tensor, values)) in arena.tensors().iter().zip(gradients).enumerate() {
                    if let Some(values) = values {
                        arena.write_gradient(&tensor.spec.name, values)?;
                    }
                    optimizer.set_gradient(index, tensor.gradient.clone().filter(|_| values.is_some()))?;
                }
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                optimizer.step(&mut encoder)?;
                gpu.queue().submit([encoder.finish()]);
                // Every gradient written and not yet consumed lies in staging memory: a long list of
                // files would pile up there.
                Ok(optimizer.wait_for_report()?)
            }
            Self::Cpu { params, optimizer } => {
                let views = gradients.iter().zip(&optimizer.plan().tensors).map(|(values, planned)| match values {
                    Some(values) => ArrayViewD::from_shape(shape(&planned.spec), values)
                        .map(Some)
                        .map_err(|e| Error::input(format!("tensor {:?}: {e}", planned.spec.name))),
                    None => Ok(None),
                });
                let views = views.collect::<Result<Vec<_>>>()?;
                let tensors = params.iter_mut().zip(views);
                let mut tensors: Vec<_> =
                    tensors.map(|(params, gradient)| CpuTensor { params: params.view_mut(), gradient }).collect();
                Ok(Some(optimizer.step(&mut tensors)?))
            }
        }
    }

    /// Tells a `plateau` schedule the loss; it acts on the next step.
    pub fn report_loss(&mut self, loss: f64) -> Result<()> {
        match self {
            Self::Gpu { optimizer, .. } => optimizer.report_loss(loss)?,
            Self::Cpu { optimizer, .. } => optimizer.report_loss(loss)?,
        }
        Ok(())
    }

    pub fn params(&self) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Gpu { optimizer, .. } => Ok(optimizer.params_blocking()?),
            Self::Cpu { params, .. } => Ok(params.iter().map(|p| p.iter().copied().collect()).collect()),
        }
    }

    pub fn state(&self) -> Result<OptimizerState> {
        match self {
            Self::Gpu { optimizer, .. } => Ok(optimizer.state_blocking()?),
            Self::Cpu { optimizer, .. } => Ok(optimizer.state()),
        }
    }
}

fn shape(spec: &TensorSpec) -> IxDyn {
    IxDyn(&spec.shape.iter().map(|n| *n as usize).collect::<Vec<_>>())
}
