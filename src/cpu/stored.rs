//! Slots of state as they are stored, the same bits as on the GPU.

use crate::rule::kernel::CpuFloat;
use crate::rule::maths::bounded;
use crate::storage::{
    Noise, Q8_BLOCK, StateFormat, bf16_value, finite_bf16_bits, q8_codes, q8_values, stochastic_bf16_bits,
};

/// A tensor's slot.
#[derive(Debug, Clone)]
pub enum Stored<F> {
    /// In the number type that is computed in.
    Wide(Vec<F>),
    Bf16(Vec<u16>),
    Q8 {
        signed: bool,
        codes: Vec<u8>,
        scales: Vec<f32>,
    },
}

/// A stretch of it, from a multiple of [`Q8_BLOCK`] on.
#[derive(Debug)]
pub enum StoredChunk<'a, F> {
    Wide(&'a mut [F]),
    Bf16(&'a mut [u16]),
    Q8 { signed: bool, codes: &'a mut [u8], scales: &'a mut [f32] },
}

impl<F: CpuFloat> Stored<F> {
    pub fn new(format: StateFormat, signed: bool, initial: f64, elements: usize) -> Self {
        let mut stored = match format {
            StateFormat::F32 => Self::Wide(vec![F::of(initial); elements]),
            StateFormat::Bf16 => Self::Bf16(vec![0; elements]),
            StateFormat::Q8 => {
                let scales = vec![0.0; elements.div_ceil(Q8_BLOCK as usize)];
                Self::Q8 { signed, codes: vec![0; elements], scales }
            }
        };
        if !matches!(stored, Self::Wide(_)) {
            stored.set(&vec![F::of(initial); elements], None);
        }
        stored
    }

    /// The values, for slots of the engine's own, which are never narrow.
    pub fn wide_mut(&mut self) -> Option<&mut Vec<F>> {
        match self {
            Self::Wide(values) => Some(values),
            Self::Bf16(_) | Self::Q8 { .. } => None,
        }
    }

    /// All values.
    pub fn values(&self) -> Vec<F> {
        match self {
            Self::Wide(values) => values.clone(),
            Self::Bf16(halves) => halves.iter().map(|half| F::of(bf16_value(*half).into())).collect(),
            Self::Q8 { signed, codes, scales } => {
                let chunks = codes.chunks(Q8_BLOCK as usize).zip(scales);
                chunks.flat_map(|(codes, scale)| q8_values(codes, *scale, *signed)).map(|x| F::of(x.into())).collect()
            }
        }
    }

    /// The scales of q8.
    pub fn scales(&self) -> &[f32] {
        match self {
            Self::Wide(_) | Self::Bf16(_) => &[],
            Self::Q8 { scales, .. } => scales,
        }
    }

    /// Stores values, rounded to nearest, with those scales or their own.
    pub fn set(&mut self, values: &[F], given: Option<&[f32]>) {
        match self {
            Self::Wide(wide) => wide.copy_from_slice(values),
            Self::Bf16(halves) => {
                halves.iter_mut().zip(values).for_each(|(half, x)| *half = finite_bf16_bits(single(*x)));
            }
            Self::Q8 { signed, codes, scales } => quantise(*signed, values, codes, scales, given),
        }
    }

    /// Takes rows of so many elements over from a slot of the same format: pairs of the row here and the row there.
    /// Those of q8 are whole stretches that share a scale.
    pub fn copy_rows(&mut self, from: &Self, rows: &[(usize, usize)], width: usize) {
        match (self, from) {
            (Self::Wide(to), Self::Wide(from)) => copy_rows(to, from, rows, width),
            (Self::Bf16(to), Self::Bf16(from)) => copy_rows(to, from, rows, width),
            (Self::Q8 { codes, scales, .. }, Self::Q8 { codes: from, scales: from_scales, .. }) => {
                copy_rows(codes, from, rows, width);
                copy_rows(scales, from_scales, rows, width / Q8_BLOCK as usize);
            }
            // A plan that changes the format has been refused.
            _ => {}
        }
    }

    pub fn chunks_mut(&mut self, len: usize) -> Box<dyn Iterator<Item = StoredChunk<'_, F>> + '_> {
        match self {
            Self::Wide(values) => Box::new(values.chunks_mut(len).map(StoredChunk::Wide)),
            Self::Bf16(halves) => Box::new(halves.chunks_mut(len).map(StoredChunk::Bf16)),
            Self::Q8 { signed, codes, scales } => {
                let signed = *signed;
                let chunks = codes.chunks_mut(len).zip(scales.chunks_mut(len / Q8_BLOCK as usize));
                Box::new(chunks.map(move |(codes, scales)| StoredChunk::Q8 { signed, codes, scales }))
            }
        }
    }
}

impl<F: CpuFloat> StoredChunk<'_, F> {
    /// The values where they are stored otherwise.
    pub fn widened(&self) -> Option<Vec<F>> {
        match self {
            Self::Wide(_) => None,
            Self::Bf16(halves) => Some(halves.iter().map(|half| F::of(bf16_value(*half).into())).collect()),
            Self::Q8 { signed, codes, scales } => {
                let chunks = codes.chunks(Q8_BLOCK as usize).zip(scales.iter());
                let values = chunks.flat_map(|(codes, scale)| q8_values(codes, *scale, *signed));
                Some(values.map(|x| F::of(x.into())).collect())
            }
        }
    }

    /// Stores what became of [`StoredChunk::widened`]; `first` is the chunk's first element in its tensor.
    pub fn narrow(&mut self, values: &[F], noise: Noise, stream: u32, first: u64) {
        match self {
            Self::Wide(_) => {}
            Self::Bf16(halves) => {
                for ((half, x), element) in halves.iter_mut().zip(values).zip(first..) {
                    *half = stochastic_bf16_bits(single(*x), noise.bits(element, stream));
                }
            }
            Self::Q8 { signed, codes, scales } => quantise(*signed, values, codes, scales, None),
        }
    }
}

/// Takes rows of that width over: pairs of the row here and the row there.
pub fn copy_rows<T: Copy>(to: &mut [T], from: &[T], rows: &[(usize, usize)], width: usize) {
    for (here, there) in rows {
        to[here * width..][..width].copy_from_slice(&from[there * width..][..width]);
    }
}

/// In f32, where what is finite stays finite: an infinite scale would make NaN of its 256.
fn single<F: CpuFloat>(x: F) -> f32 {
    let x = x.f64();
    if x.is_finite() { bounded(x, f32::MAX.into()) as f32 } else { x as f32 }
}

fn quantise<F: CpuFloat>(signed: bool, values: &[F], codes: &mut [u8], scales: &mut [f32], given: Option<&[f32]>) {
    let len = Q8_BLOCK as usize;
    for (index, (values, codes)) in values.chunks(len).zip(codes.chunks_mut(len)).enumerate() {
        let rounded: Vec<f32> = values.iter().map(|x| single(*x)).collect();
        let given = given.and_then(|scales| scales.get(index)).copied();
        scales[index] = q8_codes(&rounded, signed, given, codes);
    }
}
