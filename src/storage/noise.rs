//! Random bits by counter: what an element gets depends on the seed, the tensor's name, the steps that
//! the tensor has taken and the element's place in it, and on nothing of how it is computed.
//! `shaders/storage/noise.wgsl` is the twin.

/// PCG4D (Jarzynski & Olano 2020), a hash of four words to four.
pub fn pcg4d(counter: [u32; 4]) -> [u32; 4] {
    let mut v = counter.map(|x| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 4]| {
        v[0] = v[0].wrapping_add(v[1].wrapping_mul(v[3]));
        v[1] = v[1].wrapping_add(v[2].wrapping_mul(v[0]));
        v[2] = v[2].wrapping_add(v[0].wrapping_mul(v[1]));
        v[3] = v[3].wrapping_add(v[1].wrapping_mul(v[2]));
    };
    mix(&mut v);
    v = v.map(|x| x ^ x >> 16);
    mix(&mut v);
    v
}

/// What tells tensors apart: a hash of the seed and the name (FNV-1a), so that neither their order nor
/// their number matters.
pub fn noise_key(seed: u64, name: &str) -> u32 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32) as u32
}

/// The random bits of one tensor at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noise {
    /// [`noise_key`] the tensor.
    pub key: u32,
    /// Steps that the tensor has taken before.
    pub steps: u32,
}

impl Noise {
    /// The stream that rounds parameters in the update.
    pub const PARAMS: u32 = 0;
    /// The stream of the first kept slot; the others follow.
    pub const SLOTS: u32 = 2;

    /// The last word of the stream of normal numbers, which no pair of streams has.
    pub const NORMAL: u32 = u32::MAX;

    /// The bits that round weights again that a limit has scaled after the update.
    pub(crate) fn of_limit(self) -> Self {
        Self { key: self.key ^ 0x9e37_79b9, ..self }
    }

    /// The word of which a normal number is made.
    #[inline(always)]
    pub fn normal_word(self, element: u64) -> u32 {
        self.words(element, Self::NORMAL)[(element % 4) as usize]
    }

    #[inline(always)]
    fn words(self, element: u64, last: u32) -> [u32; 4] {
        pcg4d([(element / 4) as u32, self.key, self.steps, last])
    }

    /// Sixteen bits for an element. Two streams share a hash, its lower and its upper halves.
    #[inline(always)]
    pub fn bits(self, element: u64, stream: u32) -> u16 {
        let words = self.words(element, stream / 2);
        (words[(element % 4) as usize] >> (16 * (stream % 2))) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{bf16_value, stochastic_bf16_bits};

    /// 50 values of all sizes, 100,000 draws each along the steps and along the elements: the mean is
    /// the value, within four standard deviations of a fair coin of that probability.
    #[test]
    fn the_mean_is_exact() {
        for index in 0..50u32 {
            let [random, ..] = pcg4d([index, 7, 7, 7]);
            // Any sign and digits, exponents from 2^-100 to 2^100.
            let exponent = 27 + random % 200;
            let value = f32::from_bits(random & 0x807f_ffff | exponent << 23);
            let below = bf16_value(stochastic_bf16_bits(value, 0));
            let up = f64::from(value.to_bits() & 0xffff) / 65_536.0;
            for (what, by_step) in [("steps", true), ("elements", false)] {
                for stream in 0..4 {
                    let draws = 100_000u32;
                    let raised = (0..draws).filter(|draw| {
                        let (steps, element) = if by_step { (*draw, 5) } else { (5, u64::from(*draw)) };
                        let bits = Noise { key: index, steps }.bits(element, stream);
                        bf16_value(stochastic_bf16_bits(value, bits)) != below
                    });
                    let (mean, deviation) = (up * f64::from(draws), (up * (1.0 - up) * f64::from(draws)).sqrt());
                    let z = (raised.count() as f64 - mean) / deviation;
                    assert!(z.abs() < 4.0, "{value:e} by {what}, stream {stream}: z = {z}");
                }
            }
        }
    }

    #[test]
    fn seed_name_step_element_and_stream_all_matter() {
        let of = |seed, name, steps, element, stream| Noise { key: noise_key(seed, name), steps }.bits(element, stream);
        let base = of(1, "w", 0, 0, 0);
        let others = [of(2, "w", 0, 0, 0), of(1, "v", 0, 0, 0), of(1, "w", 1, 0, 0), of(1, "w", 0, 1, 0)];
        assert!(
            others
                .into_iter()
                .chain([of(1, "w", 0, 4, 0), of(1, "w", 0, 0, 1), of(1, "w", 0, 0, 2)])
                .all(|x| x != base)
        );
        assert_eq!(of(1, "w", 0, 0, 0), base);
    }
}
