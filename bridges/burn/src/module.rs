//! The parameters of a module and their gradients.

use burn::module::{ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn_cubecl::Cube;
use cubecl::client::Client;
use wgpu_optim::TensorSpec;

use crate::Error;
use crate::tensor::{Place, dense};

/// A parameter that is trained.
#[derive(Debug)]
pub struct Parameter {
    /// Its path in the module, as `encoder.linear.weight`.
    pub spec: TensorSpec,
    pub params: Place,
    /// `None` where the loss did not depend on it.
    pub gradient: Option<Place>,
}

/// Walks over a module and collects what is trained. A parameter that others hold too, and that is
/// about to change, is replaced by a copy.
pub struct Collector {
    gradients: GradientsParams,
    path: Vec<String>,
    pub parameters: Vec<Parameter>,
    pub client: Option<Client>,
    pub error: Option<Error>,
}

impl Collector {
    pub fn new(gradients: GradientsParams) -> Self {
        Self { gradients, path: Vec::new(), parameters: Vec::new(), client: None, error: None }
    }

    fn collect<const D: usize>(&mut self, tensor: Tensor<D>, gradient: Option<Tensor<D>>) -> Result<Tensor<D>, Error> {
        let name = self.path.join(".");
        let (mut params, own) = dense(&name, tensor)?;
        let gradient = match gradient {
            Some(gradient) => {
                let gradient = dense(&name, gradient)?.0;
                if !own {
                    params = params.copy();
                }
                Some(Place::of(&name, &gradient)?)
            }
            None => None,
        };
        self.client = Some(params.client.clone());
        let shape: Vec<u64> = params.meta.shape().iter().map(|n| *n as u64).collect();
        let place = Place::of(&name, &params)?;
        self.parameters.push(Parameter { spec: TensorSpec::new(name, shape), params: place, gradient });
        Ok(Tensor::from_primitive::<Cube>(params))
    }
}

impl ModuleMapper for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        if !tensor.is_require_grad() || self.error.is_some() {
            return Param::from_mapped_value(id, tensor, mapper);
        }
        let checkpointing = tensor.gradient_checkpointing_strategy();
        let device = tensor.device();
        let gradient = self.gradients.remove(id);
        // No clone may be left here: whoever holds the tensor gets to keep its values.
        let tensor = match self.collect(tensor.inner(), gradient) {
            Ok(tensor) => {
                let mut tensor = Tensor::from_inner(tensor);
                if let Some(strategy) = checkpointing {
                    tensor = tensor.with_gradient_checkpointing_strategy(strategy);
                }
                tensor.require_grad()
            }
            Err(error) => {
                self.error = Some(error);
                // Nobody will see it: the step fails.
                Tensor::zeros([1; D], &device)
            }
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}
