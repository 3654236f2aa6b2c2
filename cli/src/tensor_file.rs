//! Tensors by name, as safetensors files hold them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use wgpu_optim::Format;
use wgpu_optim::TensorSpec;
use wgpu_optim::checkpoint::{dtype_of, float_values};

use crate::error::{Error, Result};

/// A file that has been read; knows its path, for messages.
#[derive(Debug)]
pub struct TensorFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    metadata: Option<HashMap<String, String>>,
}

impl<'a> TensorFile<'a> {
    pub fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let fail = |e| Error::file(path, format!("not a whole safetensors file: {e}"));
        let tensors = SafeTensors::deserialize(bytes).map_err(fail)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(fail)?;
        Ok(Self { path, tensors, metadata: header.metadata().clone() })
    }

    /// What the file says besides its tensors.
    pub fn metadata(&self) -> Option<HashMap<String, String>> {
        self.metadata.clone()
    }

    /// Whether it has a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// All tensors, by name.
    pub fn specs(&self) -> Vec<TensorSpec> {
        let spec = |(name, view): (String, TensorView<'_>)| {
            TensorSpec::new(name, view.shape().iter().map(|n| *n as u64).collect::<Vec<_>>())
        };
        let mut specs: Vec<_> = self.tensors.tensors().into_iter().map(spec).collect();
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs
    }

    /// The values of that tensor, which must be there in f32, f16 or bf16 and of that shape.
    pub fn values(&self, spec: &TensorSpec) -> Result<Vec<f32>> {
        let name = &spec.name;
        let view = self.tensors.tensor(name).map_err(|_| self.problem(format!("lacks tensor {name:?}")))?;
        float_values(&view, &spec.shape).map_err(|problem| self.problem(format!("tensor {name:?} {problem}")))
    }

    /// Checks that the file has no tensor besides those.
    pub fn check_only(&self, specs: &[TensorSpec]) -> Result<()> {
        let mut names = self.tensors.names();
        names.sort_unstable();
        match names.into_iter().find(|name| specs.iter().all(|s| s.name != *name)) {
            Some(extra) => Err(self.problem(format!("tensor {extra:?} is not among the parameters"))),
            None => Ok(()),
        }
    }

    pub fn problem(&self, problem: String) -> Error {
        Error::file(self.path, problem)
    }
}

/// A file of tensors, each in its format.
pub fn serialize(
    specs: &[TensorSpec],
    values: &[Vec<f32>],
    formats: &[Format],
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let stored: Vec<_> = values.iter().zip(formats).map(|(values, format)| format.encode(values)).collect();
    let views = specs.iter().zip(&stored).zip(formats).map(|((spec, bytes), format)| {
        let shape = spec.shape.iter().map(|n| *n as usize).collect();
        Ok((spec.name.as_str(), TensorView::new(dtype_of(*format), shape, bytes)?))
    });
    let fail = |e: safetensors::SafeTensorError| Error::failed(format!("safetensors: {e}"));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let metadata = metadata.map(BTreeMap::from_iter);
    Ok(wgpu_optim::checkpoint::serialize(views, metadata.as_ref())?)
}
