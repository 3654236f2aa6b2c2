//! The bundled handwritten digits; `data/README.md` says where they come from.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Digits there are.
pub const CLASSES: usize = 10;
/// Images of each digit that no training sees: a fifth.
const HELD_BACK: usize = 36;

static PACKED: &[u8] = include_bytes!("../data/digits.bin");

/// Images and labels, and which of them are for training.
#[derive(Debug)]
pub struct Digits {
    /// [`PIXELS`] values in [0, 1] an image.
    pub images: Vec<f32>,
    pub labels: Vec<u8>,
    /// Images to train on, 1,437.
    pub training: Vec<u32>,
    /// Images to judge by, 360.
    pub held_back: Vec<u32>,
}

impl Digits {
    /// All images. The split is the same in every run, and every digit has its share in it.
    pub fn load() -> Self {
        let rows = PACKED.chunks_exact(PIXELS + 1);
        let labels: Vec<u8> = rows.clone().map(|row| row[PIXELS]).collect();
        let images = rows.flat_map(|row| &row[..PIXELS]).map(|pixel| f32::from(*pixel) / 16.0).collect();
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let (mut training, mut held_back) = (Vec::new(), Vec::new());
        for digit in 0..CLASSES {
            let mut those: Vec<u32> =
                (0u32..).zip(&labels).filter(|(_, l)| usize::from(**l) == digit).map(|(i, _)| i).collect();
            those.shuffle(&mut random);
            held_back.extend(those.drain(..HELD_BACK));
            training.extend(those);
        }
        Self { images, labels, training, held_back }
    }

    /// The order of the training images, epoch by epoch without end. The seed decides it.
    pub fn orders(&self, seed: u64) -> impl Iterator<Item = Vec<u32>> {
        // Not the generator of the first parameters: another stream of the same seed.
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(1);
        let mut order = self.training.clone();
        std::iter::repeat_with(move || {
            order.shuffle(&mut random);
            order.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_on_one_side_of_the_split() {
        let digits = Digits::load();
        assert_eq!(digits.labels.len(), 1797);
        assert_eq!(digits.images.len(), 1797 * PIXELS);
        assert_eq!((digits.training.len(), digits.held_back.len()), (1437, 360));
        let mut all: Vec<_> = digits.training.iter().chain(&digits.held_back).copied().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1797));
    }
}
