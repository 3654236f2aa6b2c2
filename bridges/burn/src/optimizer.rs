use burn::module::Module;
use burn::optim::GradientsParams;
use wgpu_optim::{Gpu, OptimizerConfig, Tensor};

use crate::module::{Collector, Parameter};
use crate::tensor::Place;
use crate::{Error, Refused};

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
    /// The configuration does not fit the module, the rate is negative or not finite, a tensor is not f32 on Burn's wgpu
    /// device, more steps are under way than the engine can follow, or the device is lost. No step is taken then: the
    /// error holds the module, and engine and state are as they were.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, gradients: GradientsParams) -> Result<M, Refused<M>> {
        let mut collector = Collector::new(gradients);
        let module = module.map(&mut collector);
        match self.take_step(lr, collector) {
            Ok(()) => Ok(module),
            Err(error) => Err(Refused { error, module }),
        }
    }

    fn take_step(&mut self, lr: f64, collector: Collector) -> Result<(), Error> {
        if let Some(error) = collector.error {
            return Err(error);
        }
        let Some(client) = collector.client else { return Ok(()) };
        let parameters = collector.parameters;
        let tensors = parameters.iter().map(tensor);
        let (engine, moved) = match &mut self.engine {
            Some(engine) if stays(engine, &parameters) => (engine, false),
            Some(engine) => {
                // The state follows on the GPU.
                engine.reconfigure(&self.config, tensors)?;
                (engine, true)
            }
            none => (none.insert(wgpu_optim::Optimizer::new(&self.gpu, &self.config, tensors)?), true),
        };
        self.moves += u64::from(moved);
        // From here on the engine is bound there, whatever fails.
        let (places, slices): (Vec<_>, Vec<_>) = parameters.into_iter().map(|p| (p.params, p.gradient)).unzip();
        self.places = places;
        if self.lr != Some(lr) && engine.rates().goes_by_lr() {
            engine.set_lr(lr)?;
            self.lr = Some(lr);
        }
        for (index, gradient) in slices.iter().enumerate() {
            engine.set_gradient(index, gradient.as_ref().map(|place| place.slice.clone()))?;
        }

        // Burn's backward pass goes to the queue first. What Burn does with the gradients' memory
        // afterwards comes later in the same queue, so they may be dropped below.
        client.flush().map_err(|e| Error::Option(format!("flushing Burn's commands: {e:?}")))?;
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        engine.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
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
