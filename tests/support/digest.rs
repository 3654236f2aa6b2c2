//! 64 bits that tell whether numbers are the same to the bit.

/// FNV-1a (Fowler, Noll & Vo): the same on every machine.
#[derive(Debug, Clone, Copy)]
pub struct Digest(u64);

impl Digest {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    /// The length goes in too, so that no value can move from one list to the next.
    pub fn text(self, text: &str) -> Self {
        self.bytes(&(text.len() as u64).to_le_bytes()).bytes(text.as_bytes())
    }

    /// Likewise, by bits: zeros of both signs differ, and a NaN is itself.
    pub fn floats(self, values: &[f32]) -> Self {
        let this = self.bytes(&(values.len() as u64).to_le_bytes());
        values.iter().fold(this, |digest, x| digest.bytes(&x.to_bits().to_le_bytes()))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
