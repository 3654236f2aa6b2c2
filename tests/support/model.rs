//! An optimizer over tensors that lie as a test wants them, between guard words.

use wgpu_optim::plan::Plan;
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{Arena, Format, Gpu, Optimizer, OptimizerConfig, Slice, Tensor, TensorSpec};

use super::submit;

/// Where parameters and gradients lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the library's arena.
    Arena,
    /// Each in a buffer of its own.
    Separate,
    /// Parameters in one buffer, gradients in another, at the same offsets, which are no multiples of
    /// 16: one dispatch updates them all, so that a kernel can reach every guard word.
    TwoBuffers,
    /// All in one buffer, at offsets that are no multiples of 16 and at different distances.
    OneBuffer,
}

pub const PLACES: [Place; 4] = [Place::Arena, Place::Separate, Place::TwoBuffers, Place::OneBuffer];

pub const USAGE: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

/// Words at either end of a buffer and between slices at least.
const GUARD: usize = 5;

/// A buffer of slices between guard words.
#[derive(Debug)]
pub struct Packed {
    pub buffer: wgpu::Buffer,
    /// First word and words of each slice, the last of which may be a half.
    pub places: Vec<(usize, usize)>,
    sizes: Vec<u64>,
}

/// A signalling NaN whose payload tells its place.
fn guard(word: usize) -> u32 {
    0x7fa0_0000 | (word as u32 & 0xf_ffff)
}

impl Packed {
    /// Slices of those lengths, each starting at its number of words past a multiple of 64 (256 bytes).
    pub fn new(gpu: &Gpu, slices: &[(usize, usize)]) -> Self {
        Self::of_bytes(gpu, &slices.iter().map(|(len, shift)| (*len as u64 * 4, *shift)).collect::<Vec<_>>())
    }

    /// Likewise, of so many bytes.
    pub fn of_bytes(gpu: &Gpu, slices: &[(u64, usize)]) -> Self {
        let mut places = Vec::new();
        let mut end = 0usize;
        for (size, shift) in slices {
            let start = (end + GUARD).next_multiple_of(64) + shift;
            let len = size.div_ceil(4) as usize;
            places.push((start, len));
            end = start + len;
        }
        let sizes = slices.iter().map(|(size, _)| *size).collect();
        let words: Vec<u32> = (0..end + GUARD).map(guard).collect();
        let buffer = buffer(gpu, words.len() as u64 * 4);
        gpu.queue().write_buffer(&buffer, 0, bytes(&words));
        Self { buffer, places, sizes }
    }

    pub fn slice(&self, index: usize) -> Slice {
        Slice::new(&self.buffer, self.places[index].0 as u64 * 4, self.sizes[index])
    }

    /// Words outside all slices that are no longer what they were, halves included.
    pub fn broken_guards(&self, gpu: &Gpu) -> Vec<usize> {
        let words = read_words(gpu, &self.buffer);
        let mut within = vec![false; words.len()];
        self.places.iter().for_each(|(start, len)| within[*start..start + len].fill(true));
        let halves = self.places.iter().zip(&self.sizes).filter(|(_, size)| *size % 4 != 0);
        let mut broken: Vec<_> = (0..words.len()).filter(|w| words[*w] != guard(*w) && !within[*w]).collect();
        broken.extend(halves.map(|((start, len), _)| start + len - 1).filter(|w| words[*w] >> 16 != guard(*w) >> 16));
        broken
    }
}

/// A storage buffer that can be copied to and from.
pub fn buffer(gpu: &Gpu, size: u64) -> wgpu::Buffer {
    gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("test"),
        size: size.max(4),
        usage: USAGE,
        mapped_at_creation: false,
    })
}

fn bytes(words: &[u32]) -> &[u8] {
    bytemuck::cast_slice(words)
}

/// A buffer's words, as they are after all that is submitted.
pub fn read_words(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u32> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("test readback"),
        size: buffer.size(),
        usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    submit(gpu, |encoder| encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size()));
    staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let words = bytemuck::cast_slice(&staging.get_mapped_range(..).unwrap()).to_vec();
    staging.unmap();
    words
}

/// A slice's words.
pub fn read_slice(gpu: &Gpu, slice: &Slice) -> Vec<u32> {
    let first = (slice.offset / 4) as usize;
    read_words(gpu, &slice.buffer)[first..first + (slice.size / 4) as usize].to_vec()
}

/// Writes values as that format. The half of a word that is not theirs stays a guard.
fn write(gpu: &Gpu, slice: &Slice, format: Format, values: &[f32]) {
    assert_eq!(values.len() as u64 * format.bytes(), slice.size);
    let mut bytes = format.encode(values);
    if !bytes.len().is_multiple_of(4) {
        let last = (slice.offset as usize + bytes.len()) / 4;
        bytes.extend(&guard(last).to_le_bytes()[2..]);
    }
    gpu.queue().write_buffer(&slice.buffer, slice.offset, &bytes);
}

#[derive(Debug)]
pub struct Model {
    pub gpu: Gpu,
    pub optimizer: Optimizer,
    /// Where gradients lie, whether bound or not.
    pub gradients: Vec<Slice>,
    formats: Vec<[Format; 2]>,
    packed: Vec<Packed>,
}

impl Model {
    pub fn new(gpu: &Gpu, config: &OptimizerConfig, specs: &[TensorSpec], params: &[Vec<f32>], place: Place) -> Self {
        let (tensors, packed) = tensors(gpu, config, specs, place);
        let plan = Plan::new(config, specs).unwrap();
        let formats: Vec<_> = (0..specs.len()).map(|t| plan.formats_of(t)).collect();
        for ((tensor, params), format) in tensors.iter().zip(params).zip(&formats) {
            write(gpu, &tensor.params, format[0], params);
        }
        let gradients = tensors.iter().map(|t| t.gradient.clone().unwrap()).collect();
        let optimizer = Optimizer::new(gpu, config, tensors).unwrap();
        Self { gpu: gpu.clone(), optimizer, gradients, formats, packed }
    }

    pub fn write_params(&self, params: &[Vec<f32>]) {
        for ((tensor, values), format) in self.optimizer.tensors().iter().zip(params).zip(&self.formats) {
            write(&self.gpu, &tensor.params, format[0], values);
        }
    }

    pub fn write_gradients(&self, gradients: &[Vec<f32>]) {
        for ((slice, values), format) in self.gradients.iter().zip(gradients).zip(&self.formats) {
            write(&self.gpu, slice, format[1], values);
        }
    }

    /// Records and submits a step.
    pub fn submit(&mut self) {
        let optimizer = &mut self.optimizer;
        submit(&self.gpu, |encoder| optimizer.step(encoder).unwrap());
    }

    /// A step with those gradients.
    pub fn step(&mut self, gradients: &[Vec<f32>]) {
        self.write_gradients(gradients);
        self.submit();
    }

    /// A step in which the tensors without a gradient have none bound.
    pub fn step_some(&mut self, gradients: &[Option<Vec<f32>>]) {
        for (tensor, gradient) in gradients.iter().enumerate() {
            let slice = gradient.as_ref().map(|_| self.gradients[tensor].clone());
            self.optimizer.set_gradient(tensor, slice).unwrap();
            if let Some(values) = gradient {
                write(&self.gpu, &self.gradients[tensor], self.formats[tensor][1], values);
            }
        }
        self.submit();
    }

    pub fn params(&self) -> Vec<Vec<f32>> {
        self.optimizer.params_blocking().unwrap()
    }

    /// Parameters and state as bits, which NaN compares by too.
    pub fn bits(&self) -> Vec<Vec<u32>> {
        let to_bits = |values: &Vec<f32>| values.iter().map(|x| x.to_bits()).collect();
        let state = self.optimizer.state_blocking().unwrap();
        let slots: Vec<_> = state.tensors.iter().flat_map(|t| t.slots.iter().map(|(_, v)| to_bits(v))).collect();
        let steps = state.tensors.iter().map(|t| t.steps as u32).collect();
        self.params().iter().map(to_bits).chain(slots).chain([steps]).collect()
    }

    pub fn assert_guards(&self) {
        for packed in &self.packed {
            let broken = packed.broken_guards(&self.gpu);
            assert!(broken.is_empty(), "guard words {broken:?} of {:?} were written", packed.places);
        }
    }
}

fn tensors(gpu: &Gpu, config: &OptimizerConfig, specs: &[TensorSpec], place: Place) -> (Vec<Tensor>, Vec<Packed>) {
    let plan = Plan::new(config, specs).unwrap();
    // Of parameters and of gradients.
    let size = |t: usize, which: usize| specs[t].elements().unwrap() * plan.formats_of(t)[which].bytes();
    let tensor = |t: usize, params: Slice, gradient: Slice| {
        Tensor::new(specs[t].name.clone(), specs[t].shape.clone(), params).with_gradient(gradient)
    };
    let all = 0..specs.len();
    match place {
        Place::Arena => (Arena::for_config(gpu, config, specs.to_vec()).unwrap().tensors().to_vec(), Vec::new()),
        Place::Separate => {
            let own = |size: u64| Slice::new(&buffer(gpu, size.next_multiple_of(4)), 0, size);
            (all.map(|t| tensor(t, own(size(t, 0)), own(size(t, 1)))).collect(), Vec::new())
        }
        Place::TwoBuffers => {
            let packed = [0, 1].map(|which| {
                Packed::of_bytes(gpu, &all.clone().map(|t| (size(t, which), t % 3 + 1)).collect::<Vec<_>>())
            });
            let tensors = all.map(|t| tensor(t, packed[0].slice(t), packed[1].slice(t))).collect();
            (tensors, packed.into())
        }
        Place::OneBuffer => {
            let slices: Vec<_> =
                all.clone().flat_map(|t| [(size(t, 0), t % 3 + 1), (size(t, 1), (t + 1) % 3 + 1)]).collect();
            let packed = Packed::of_bytes(gpu, &slices);
            let tensors = all.map(|t| tensor(t, packed.slice(2 * t), packed.slice(2 * t + 1))).collect();
            (tensors, vec![packed])
        }
    }
}
