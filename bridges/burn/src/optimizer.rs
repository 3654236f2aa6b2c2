use burn::module::Module;
use burn::optim::GradientsParams;
use wgpu_optim::{Gpu, OptimizerConfig, Tensor};

use crate::Error;
use crate::module::{Collector, Parameter};
use crate::tensor::Place;

/// Optimizes a module as Burn's `ModuleOptimizer` does, in one recorded step for all its parameters.
#[derive(Debug)]
pub struct Optimizer {
    gpu: Gpu,
    config: OptimizerConfig,
    engine: Option<wgpu_optim::Optimizer>,
    /// Keeps the parameters' memory where the engine has bound it.
    places: Vec<Place>,
    lr: Option<f64>,
    moves: u64,
}

impl Optimizer {
    /// An optimizer for the module of the first step. Groups match parameters by their path, such as
    /// `"*.bias"`.
    pub fn new(gpu: &Gpu, config: OptimizerConfig) -> Self {
        Self { gpu: gpu.clone(), config, engine: None, places: Vec::new(), lr: None, moves: 0 }
    }

    /// Takes a step with those gradients. Parameters that gradients do not name stay as they are.
    ///
    /// The learning rate is that of `[optimizer]`: a schedule in the configuration is applied on top. `one_cycle` and the
    /// rule `rprop` go by the configuration alone.
    ///
    /// # Errors
    /// The configuration does not fit the module, a tensor is not f32 on Burn's wgpu device, or the
    /// device is lost. The module is gone then.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, gradients: GradientsParams) -> Result<M, Error> {
        let mut collector = Collector::new(gradients);
        let module = module.map(&mut collector);
        if let Some(error) = collector.error {
            return Err(error);
        }
        let Some(client) = collector.client else { return Ok(module) };
        let parameters = collector.parameters;
        let mut engine = match self.engine.take() {
            Some(engine) if stays(&engine, &parameters) => engine,
            old => {
                self.moves += 1;
                let tensors = parameters.iter().map(tensor);
                match old {
                    // The state follows on the GPU.
                    Some(mut engine) => {
                        engine.reconfigure(&self.config, tensors)?;
                        engine
                    }
                    None => wgpu_optim::Optimizer::new(&self.gpu, &self.config, tensors)?,
                }
            }
        };
        if self.lr != Some(lr) && engine.rates().goes_by_lr() {
            engine.set_lr(lr)?;
            self.lr = Some(lr);
        }
        let (places, slices): (Vec<_>, Vec<_>) = parameters.into_iter().map(|p| (p.params, p.gradient)).unzip();
        for (index, gradient) in slices.iter().enumerate() {
            engine.set_gradient(index, gradient.as_ref().map(|place| place.slice.clone()))?;
        }

        // Burn's backward pass goes to the queue first. What Burn does with the gradients' memory
        // afterwards comes later in the same queue, so they may be dropped below.
        client.flush().map_err(|e| Error::Option(format!("flushing Burn's commands: {e:?}")))?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        engine.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);

        self.places = places;
        self.engine = Some(engine);
        Ok(module)
    }

    /// The engine, for reports, health and state; `None` before the first step.
    pub fn engine(&mut self) -> Option<&mut wgpu_optim::Optimizer> {
        self.engine.as_mut()
    }

    /// How often the engine was bound to new buffers, the first time included.
    pub fn moves(&self) -> u64 {
        self.moves
    }
}

fn tensor(parameter: &Parameter) -> Tensor {
    let Parameter { spec, params, gradient } = parameter;
    let tensor = Tensor::new(spec.name.clone(), spec.shape.clone(), params.slice.clone());
    match gradient {
        Some(gradient) => tensor.with_gradient(gradient.slice.clone()),
        None => tensor,
    }
}

/// Whether those are the engine's tensors, where it has bound them.
fn stays(engine: &wgpu_optim::Optimizer, parameters: &[Parameter]) -> bool {
    let bound = engine.tensors();
    bound.len() == parameters.len()
        && bound.iter().zip(parameters).all(|(b, p)| b.spec == p.spec && b.params == p.params.slice)
}
