use std::collections::HashMap;

use wgpu::BufferUsages;

use super::context::Gpu;
use super::slice::{Slice, Tensor};
use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::layout::{ArenaLayout, DeviceLimits, Formats, Segment};
use crate::storage::Format;
use crate::tensor::TensorSpec;

/// Parameters and gradients in flat segments that the library allocates. The caller binds the slices
/// in its own kernels; one dispatch updates a whole segment.
///
/// Slices start at multiples of 256 bytes. What lies between them is padding of the arena's, which updates write to. New
/// memory is zero.
#[derive(Debug)]
pub struct Arena {
    gpu: Gpu,
    tensors: Vec<Tensor>,
    formats: Vec<Formats>,
    /// The tensors' places by name.
    places: HashMap<String, usize>,
}

impl Arena {
    /// Allocates parameters and gradients in f32 for tensors of those names and shapes.
    ///
    /// # Errors
    /// A tensor is longer than the device's longest buffer, or the device is out of memory.
    pub fn new(gpu: &Gpu, specs: impl IntoIterator<Item = TensorSpec>) -> Result<Self> {
        let specs: Vec<_> = specs.into_iter().collect();
        let formats = vec![Formats::default(); specs.len()];
        Self::with_formats(gpu, specs, formats)
    }

    /// Allocates parameters and gradients as a configuration stores them.
    ///
    /// # Errors
    /// What [`Plan::new`] refuses, and as [`Arena::new`].
    pub fn for_config(
        gpu: &Gpu,
        config: &OptimizerConfig,
        specs: impl IntoIterator<Item = TensorSpec>,
    ) -> Result<Self> {
        let specs: Vec<_> = specs.into_iter().collect();
        let formats = formats_of(config, &specs)?;
        Self::with_formats(gpu, specs, formats)
    }

    fn with_formats(gpu: &Gpu, specs: Vec<TensorSpec>, formats: Vec<Formats>) -> Result<Self> {
        let layout = ArenaLayout::new(&specs, &formats, gpu.limits())?;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let segments = |what: &str, which: usize| {
            let sizes = layout.segments.iter().map(|segment| gpu.buffer(what, segment.bytes()[which].max(4), usage));
            sizes.collect::<Result<Vec<_>>>()
        };
        let params = segments("arena parameters", 0)?;
        let gradients = segments("arena gradients", 1)?;
        let mut places = HashMap::with_capacity(specs.len());
        for (place, spec) in specs.iter().enumerate() {
            places.entry(spec.name.clone()).or_insert(place);
        }
        let tensors = specs
            .into_iter()
            .zip(layout.places)
            .zip(&formats)
            .map(|((spec, (segment, element)), formats)| {
                let count = spec.elements().unwrap_or(0);
                let slice = |buffer: &wgpu::Buffer, format: Format| {
                    Slice::new(buffer, element * format.bytes(), count * format.bytes()).with_padding(format)
                };
                let gradient = Some(slice(&gradients[segment], formats[1]));
                Tensor { params: slice(&params[segment], formats[0]), gradient, spec }
            })
            .collect();
        Ok(Self { gpu: gpu.clone(), tensors, formats, places })
    }

    /// Bytes that [`Arena::for_config`] will ask the device for: parameters and gradients.
    ///
    /// # Errors
    /// What [`Plan::new`] refuses, or a tensor is longer than the longest buffer.
    pub fn bytes(config: &OptimizerConfig, specs: &[TensorSpec], limits: &DeviceLimits) -> Result<u64> {
        let layout = ArenaLayout::new(specs, &formats_of(config, specs)?, limits)?;
        Ok(layout.segments.iter().flat_map(Segment::bytes).sum())
    }

    /// The tensors, ready for an optimizer.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        Ok(&self.tensors[self.place(name)?])
    }

    /// Where the parameters of the tensor of that name lie.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn params(&self, name: &str) -> Result<&Slice> {
        Ok(&self.tensor(name)?.params)
    }

    /// Where the gradient of the tensor of that name lies.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn gradient(&self, name: &str) -> Result<&Slice> {
        let tensor = self.tensor(name)?;
        tensor.gradient.as_ref().ok_or_else(|| Error::tensor(name, "it has no gradient"))
    }

    /// Writes a tensor's parameters, rounded to their storage.
    ///
    /// # Errors
    /// There is no such tensor, or it has another number of elements.
    pub fn write_params(&self, name: &str, values: &[f32]) -> Result<()> {
        self.gpu.write_as(self.params(name)?, self.formats_named(name)?[0], values)
    }

    /// Writes a tensor's gradient, rounded to its storage.
    ///
    /// # Errors
    /// There is no such tensor, or it has another number of elements.
    pub fn write_gradient(&self, name: &str, values: &[f32]) -> Result<()> {
        self.gpu.write_as(self.gradient(name)?, self.formats_named(name)?[1], values)
    }

    fn formats_named(&self, name: &str) -> Result<Formats> {
        Ok(self.formats[self.place(name)?])
    }

    fn place(&self, name: &str) -> Result<usize> {
        let place = self.places.get(name).copied();
        place.ok_or_else(|| Error::tensor(name, "there is no such tensor in the arena"))
    }
}

fn formats_of(config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<Vec<Formats>> {
    let plan = Plan::new(config, specs)?;
    Ok((0..specs.len()).map(|t| plan.formats_of(t)).collect())
}
