use wgpu::{Buffer, BufferAddress, BufferBinding, BufferUsages};

use crate::error::{Error, Result};
use crate::storage::Format;
use crate::tensor::TensorSpec;

/// A stretch of a buffer: where a tensor's parameters or its gradient lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// The buffer, with usage `STORAGE`.
    pub buffer: Buffer,
    /// Its start in the buffer in bytes, a multiple of 4.
    pub offset: BufferAddress,
    /// Its length in bytes: 4 for each element, or 2 where the storage has 16 bits.
    pub size: BufferAddress,
    /// Where the rest of its last four elements is padding that nothing else uses: there only, and no longer where
    /// the slice is made another.
    padding: Option<Padding>,
}

/// Of which slice, and where it ends.
#[derive(Debug, Clone, PartialEq)]
struct Padding {
    buffer: Buffer,
    offset: BufferAddress,
    size: BufferAddress,
    end: BufferAddress,
}

impl Slice {
    /// `size` bytes from `offset` on.
    pub fn new(buffer: &Buffer, offset: BufferAddress, size: BufferAddress) -> Self {
        Self { buffer: buffer.clone(), offset, size, padding: None }
    }

    /// The same, where the rest of the last four elements is padding that nothing else uses.
    pub(in crate::gpu) fn with_padding(mut self, format: Format) -> Self {
        let Self { buffer, offset, size, .. } = self.clone();
        let end = offset + size.next_multiple_of(4 * format.bytes());
        self.padding = Some(Padding { buffer, offset, size, end });
        self
    }

    fn padding(&self) -> Option<&Padding> {
        let here = |p: &&Padding| p.buffer == self.buffer && [p.offset, p.size] == [self.offset, self.size];
        self.padding.as_ref().filter(here)
    }

    /// Whether the rest of its last four elements is padding that nothing else uses.
    pub(in crate::gpu) fn is_padded(&self) -> bool {
        self.padding().is_some()
    }

    /// The slice as a binding for the caller's own kernels, up to a whole word. An arena's slices are
    /// aligned for it.
    pub fn binding(&self) -> BufferBinding<'_> {
        let size = std::num::NonZeroU64::new(self.size.next_multiple_of(4));
        BufferBinding { buffer: &self.buffer, offset: self.offset, size }
    }

    /// Where it ends, up to a whole word: no other tensor shares one.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.size).checked_next_multiple_of(4).unwrap_or(u64::MAX)
    }

    /// Where what kernels read and write of it ends: padding is theirs too.
    pub(in crate::gpu) fn reach(&self) -> u64 {
        self.padding().map_or(self.end(), |padding| padding.end.max(self.end()))
    }

    /// Checks that the slice can serve as `what` of a tensor.
    pub(crate) fn check(&self, spec: &TensorSpec, elements: u64, format: Format, what: &str) -> Result<()> {
        let fail = |problem: String| Err(Error::tensor(&spec.name, format!("its {what}: {problem}")));
        let wanted = elements * format.bytes();
        if self.size != wanted {
            let format = if format == Format::F32 { String::new() } else { format!(" in {}", format.name()) };
            return fail(format!("{} bytes, but shape {:?}{format} takes {wanted}", self.size, spec.shape));
        }
        if !self.offset.is_multiple_of(4) {
            return fail(format!("offset {} is not a multiple of 4", self.offset));
        }
        if self.end() > self.buffer.size() {
            return fail(format!("ends at byte {} of a buffer of {}", self.end(), self.buffer.size()));
        }
        if elements > 0 && !self.buffer.usage().contains(BufferUsages::STORAGE) {
            return fail(format!("the buffer's usage {:?} lacks STORAGE", self.buffer.usage()));
        }
        Ok(())
    }
}

impl From<&Buffer> for Slice {
    fn from(buffer: &Buffer) -> Self {
        Self::new(buffer, 0, buffer.size())
    }
}

impl From<wgpu::BufferSlice<'_>> for Slice {
    fn from(slice: wgpu::BufferSlice<'_>) -> Self {
        Self::new(slice.buffer(), slice.offset(), slice.size())
    }
}

/// A tensor on the GPU: name, shape, parameters and, unless it is frozen, a gradient.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name and shape.
    pub spec: TensorSpec,
    /// Where its parameters lie.
    pub params: Slice,
    /// Where its gradient lies; it can be bound elsewhere, or nowhere, from step to step.
    pub gradient: Option<Slice>,
}

impl Tensor {
    /// A tensor whose gradient is not bound yet.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<u64>>, params: impl Into<Slice>) -> Self {
        Self { spec: TensorSpec::new(name, shape), params: params.into(), gradient: None }
    }

    /// The same tensor with its gradient there.
    pub fn with_gradient(mut self, gradient: impl Into<Slice>) -> Self {
        self.gradient = Some(gradient.into());
        self
    }
}
