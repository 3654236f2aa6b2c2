//! The parameters of a module and their gradients.

use burn::module::{ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn_cubecl::Cube;
use burn_cubecl::tensor::CubeTensor;
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

    /// The tensor to go on with; where it cannot be used, the one that was given.
    fn collect<const D: usize>(&mut self, tensor: Tensor<D>, gradient: Option<Tensor<D>>) -> Tensor<D> {
        let name = self.path.join(".");
        let given = tensor.clone();
        let mut params = match dense(&name, tensor) {
            Ok(params) => params,
            Err(error) => {
                self.error = Some(error);
                return given;
            }
        };
        // No clone may be left here: whoever holds the tensor gets to keep its values.
        drop(given);
        match parameter(name, &mut params, gradient) {
            Ok(parameter) => self.parameters.push(parameter),
            Err(error) => self.error = Some(error),
        }
        self.client = Some(params.client.clone());
        Tensor::from_primitive::<Cube>(params)
    }
}

/// Where the parameter lies, in a copy if others hold it too and it is about to change.
fn parameter<const D: usize>(
    name: String,
    params: &mut CubeTensor,
    gradient: Option<Tensor<D>>,
) -> Result<Parameter, Error> {
    let gradient = gradient.map(|gradient| Place::of(&name, &dense(&name, gradient)?)).transpose()?;
    if gradient.is_some() && !params.can_mut() {
        *params = params.copy();
    }
    let shape: Vec<u64> = params.meta.shape().iter().map(|n| *n as u64).collect();
    let place = Place::of(&name, params)?;
    Ok(Parameter { spec: TensorSpec::new(name, shape), params: place, gradient })
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
        let gradient = self.gradients.remove(id);
        let mut tensor = Tensor::from_inner(self.collect(tensor.inner(), gradient));
        if let Some(strategy) = checkpointing {
            tensor = tensor.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, tensor.require_grad(), mapper)
    }
}
