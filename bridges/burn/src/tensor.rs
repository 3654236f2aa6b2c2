//! A tensor of Burn's as a slice of a wgpu buffer.

use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{Cube, tensor::CubeTensor};
use cubecl::wgpu::{AutoCompiler, WgpuResource, WgpuServer};
use cubecl_runtime::storage::ManagedResource;
use wgpu_optim::Slice;

use crate::Error;

/// Where a tensor lies. While this is held, Burn neither moves nor reuses the memory.
#[derive(Debug)]
pub struct Place {
    pub slice: Slice,
    _memory: ManagedResource<WgpuResource>,
}

/// The tensor in row-major order. Not for autodiff's tensors.
pub fn dense<const D: usize>(name: &str, tensor: Tensor<D>) -> Result<CubeTensor, Error> {
    let fail = |problem: String| Error::Tensor { name: name.to_owned(), problem };
    if tensor.dtype() != DType::F32 {
        return Err(fail(format!("{:?}, expected F32", tensor.dtype())));
    }
    Ok(into_contiguous(tensor.try_into_primitive::<Cube>().map_err(|e| fail(format!("{e:?}")))?))
}

impl Place {
    /// Waits until Burn has recorded what writes the tensor. That is submitted only by a flush.
    pub fn of(name: &str, tensor: &CubeTensor) -> Result<Self, Error> {
        let fail = |e: &dyn std::fmt::Debug| Error::Tensor { name: name.to_owned(), problem: format!("{e:?}") };
        let memory =
            tensor.client.get_resource::<WgpuServer<AutoCompiler>>(tensor.handle.clone()).map_err(|e| fail(&e))?;
        let WgpuResource { buffer, offset, .. } = memory.resource();
        let elements: usize = tensor.meta.shape().iter().product();
        Ok(Self { slice: Slice::new(buffer, *offset, 4 * elements as u64), _memory: memory })
    }
}
