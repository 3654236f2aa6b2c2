//! How numbers lie in memory. Arithmetic is f32 whatever the storage; a conversion is integers on the
//! bits, the same on GPU and CPU.

mod bits;
mod noise;
mod q8;
mod slot;

pub(crate) use bits::finite_bf16_bits;
pub use bits::{bf16_bits, bf16_value, f16_bits, f16_value, stochastic_bf16_bits};
pub use noise::{Noise, noise_key, pcg4d};
pub use q8::{Q8_BLOCK, Q8_MIN_ELEMENTS, code_table, q8_codes, q8_values};
pub use slot::SlotStorage;

use crate::options::{OptionError, OptionValue, Options, words};

/// How parameters or gradients are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// 32 bits.
    #[default]
    F32,
    /// IEEE 754's 16 bits: 11 digits, up to 65,504.
    F16,
    /// The upper half of an f32: its range, 8 digits.
    Bf16,
}

/// How a slot of state is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StateFormat {
    /// 32 bits.
    #[default]
    F32,
    /// The upper half of an f32, rounded stochastically.
    Bf16,
    /// 8 bits: a non-linear code, and one f32 of scale for 256 elements.
    Q8,
}

/// Where the digits of 16-bit parameters stay that they cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Master {
    /// In a slot of state: the step updates it and writes the rounded copy.
    F32,
    /// Nowhere.
    None,
}

/// How parameters are rounded to their format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// Up or down by chance, so that the mean is exact. For bf16.
    Stochastic,
}

words!(Format: "\"f32\", \"f16\" or \"bf16\"" { "f32" => F32, "f16" => F16, "bf16" => Bf16 });
words!(StateFormat: "\"f32\", \"bf16\" or \"q8\"" { "f32" => F32, "bf16" => Bf16, "q8" => Q8 });
words!(Master: "\"f32\" or \"none\"" { "f32" => F32, "none" => None });
words!(Rounding: "\"nearest\" or \"stochastic\"" { "nearest" => Nearest, "stochastic" => Stochastic });

impl Format {
    /// Bytes of an element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Bytes of so many elements, up to a whole word.
    pub fn bytes_of(self, elements: u64) -> u64 {
        (elements * self.bytes()).next_multiple_of(4)
    }

    /// The stored bits of a value, rounded to nearest.
    pub fn bits(self, value: f32) -> u32 {
        match self {
            Self::F32 => value.to_bits(),
            Self::F16 => f16_bits(value).into(),
            Self::Bf16 => bf16_bits(value).into(),
        }
    }

    /// The value of stored bits.
    pub fn value(self, bits: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(bits),
            Self::F16 => f16_value(bits as u16),
            Self::Bf16 => bf16_value(bits as u16),
        }
    }

    /// The value as the format holds it.
    pub fn round(self, value: f32) -> f32 {
        self.value(self.bits(value))
    }

    /// Values as the bytes that a buffer or a file holds, rounded to nearest.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|x| f16_bits(*x).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|x| bf16_bits(*x).to_le_bytes()).collect(),
        }
    }

    /// The values of such bytes.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let halves = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self {
            Self::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Self::F16 => halves.map(f16_value).collect(),
            Self::Bf16 => halves.map(bf16_value).collect(),
        }
    }
}

impl StateFormat {
    /// Words that four elements take, scales apart.
    pub fn quad_words(self) -> u32 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Q8 => 1,
        }
    }

    /// Words that a block of so many elements takes: whole vectors, then the scales.
    pub fn words(self, elements: u32) -> u32 {
        elements.div_ceil(4) * self.quad_words() + self.scales(elements)
    }

    /// Scales that a block of so many elements has.
    pub(crate) fn scales(self, elements: u32) -> u32 {
        match self {
            Self::F32 | Self::Bf16 => 0,
            Self::Q8 => elements.div_ceil(Q8_BLOCK),
        }
    }

    /// Writes a block's values to its words, rounded to nearest, with those scales or their own.
    pub(crate) fn encode(self, values: &[f32], signed: bool, scales: Option<&[f32]>, words: &mut [u32]) {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
        match self {
            Self::F32 => bytes[..values.len() * 4].copy_from_slice(bytemuck::cast_slice(values)),
            Self::Bf16 => {
                let halves = bytes.chunks_exact_mut(2).zip(values);
                halves.for_each(|(half, x)| half.copy_from_slice(&finite_bf16_bits(*x).to_le_bytes()));
            }
            Self::Q8 => {
                let (codes, own) = bytes.split_at_mut(values.len().div_ceil(4) * 4);
                for (index, chunk) in values.chunks(Q8_BLOCK as usize).enumerate() {
                    let at = index * Q8_BLOCK as usize;
                    let given = scales.and_then(|scales| scales.get(index)).copied();
                    let scale = q8_codes(chunk, signed, given, &mut codes[at..at + chunk.len()]);
                    own[index * 4..index * 4 + 4].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
    }

    /// Reads a block's values from its words, and the scales that they have.
    pub(crate) fn decode<'a>(self, words: &'a [u32], signed: bool, values: &mut [f32]) -> &'a [f32] {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        match self {
            Self::F32 => values.copy_from_slice(&bytemuck::cast_slice(words)[..values.len()]),
            Self::Bf16 => values.copy_from_slice(&Format::Bf16.decode(&bytes[..values.len() * 2])),
            Self::Q8 => {
                let (codes, scales) = words.split_at(values.len().div_ceil(4));
                let (codes, scales): (&[u8], &[f32]) = (bytemuck::cast_slice(codes), bytemuck::cast_slice(scales));
                let chunks = codes[..values.len()].chunks(Q8_BLOCK as usize).zip(scales);
                let all = chunks.flat_map(|(codes, scale)| q8_values(codes, *scale, signed));
                values.iter_mut().zip(all).for_each(|(value, x)| *value = x);
                return scales;
            }
        }
        &[]
    }

    /// Bytes that a tensor of so many elements moves to read the slot once.
    pub fn bytes_of(self, elements: u64) -> u64 {
        elements * u64::from(self.quad_words())
            + match self {
                Self::F32 | Self::Bf16 => 0,
                Self::Q8 => elements.div_ceil(u64::from(Q8_BLOCK)) * 4,
            }
    }
}

crate::options! {
    /// How numbers lie in memory, the `[storage]` table. Every key but `seed` may stand in a group too.
    pub struct StorageConfig {
        /// Of parameters.
        pub params: Format = Format::F32,
        /// Of gradients.
        pub gradients: Format = Format::F32,
        /// Of the rule's slots. Tensors below 4,096 elements keep f32 where it is `q8`.
        pub state: StateFormat = StateFormat::F32,
        /// An f32 copy of 16-bit parameters. They have one unless they are rounded stochastically.
        pub master: Option<Master> = None,
        /// Of parameters, to bf16.
        pub rounding: Rounding = Rounding::Nearest,
        /// Of what is rounded stochastically.
        pub seed: u64 = 0,
    }
}

impl StorageConfig {
    /// Whether the options go together.
    ///
    /// # Errors
    /// The first that does not, and what is allowed.
    pub fn check(&self) -> Result<(), OptionError> {
        if self.rounding == Rounding::Stochastic && self.params != Format::Bf16 {
            let problem = format!("\"stochastic\" needs params = \"bf16\", and they are {:?}", self.params.name());
            return Err(OptionError::new("rounding", problem));
        }
        match self.master {
            Some(Master::F32) if self.params == Format::F32 => {
                Err(OptionError::new("master", "needs params of 16 bits: f32 parameters are their own master"))
            }
            Some(Master::F32) if self.rounding == Rounding::Stochastic => {
                Err(OptionError::new("master", "with rounding = \"stochastic\" there is none: give one of the two"))
            }
            _ => Ok(()),
        }
    }

    /// Options with those of a group over them. A group that names its own `params` or `rounding` does
    /// not inherit a `master`, nor one with a `master` of its own the rounding.
    pub(crate) fn set(&mut self, group: &[(String, OptionValue)]) -> Result<(), OptionError> {
        let names = |key: &str| group.iter().any(|(own, _)| own == key);
        if names("params") || names("rounding") {
            self.master = None;
        }
        if names("params") || names("master") {
            self.rounding = Rounding::Nearest;
        }
        group.iter().try_for_each(|(key, value)| self.set_option(key, value))
    }

    /// The keys that a group may have.
    pub(crate) const GROUP_KEYS: [&str; 5] = ["params", "gradients", "state", "master", "rounding"];

    /// What it comes to.
    pub(crate) fn resolve(&self) -> Storage {
        let narrow = self.params != Format::F32;
        Storage {
            params: self.params,
            gradients: self.gradients,
            state: self.state,
            master: narrow && self.rounding == Rounding::Nearest && self.master != Some(Master::None),
            rounding: self.rounding,
        }
    }
}

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Storage {
    /// Of its parameters.
    pub params: Format,
    /// Of its gradient.
    pub gradients: Format,
    /// Of the rule's slots that may be compressed.
    pub state: StateFormat,
    /// Whether an f32 copy of the parameters is kept.
    pub master: bool,
    /// How parameters are rounded.
    pub rounding: Rounding,
}

impl Storage {
    /// What a tensor of so many elements has instead: those too small for q8 to save anything keep f32.
    pub(crate) fn for_elements(self, elements: u64) -> Self {
        match self.state {
            StateFormat::Q8 if elements < Q8_MIN_ELEMENTS => Self { state: StateFormat::F32, ..self },
            _ => self,
        }
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (params, gradients, state) = (self.params.name(), self.gradients.name(), self.state.name());
        if [params, gradients, state] == ["f32"; 3] {
            return f.write_str("f32");
        }
        write!(f, "params {params}, gradients {gradients}, state {state}")?;
        match (self.master, self.rounding) {
            (true, _) => f.write_str(", master f32"),
            (_, Rounding::Stochastic) => f.write_str(", stochastic"),
            _ => Ok(()),
        }
    }
}
