//! Normal numbers from random words, `shaders/noise.wgsl` for one element.

use super::float::Float;

/// ln 2.
const LN_2: f64 = std::f64::consts::LN_2;

/// The natural logarithm of a number from 2⁻²⁴ to 1: WGSL promises little of its own near 1. The exponent apart, a series
/// of odd powers of (m−1)/(m+1), which stays within ±0.172, so that what is left out is below 3e-9 of it.
#[inline(always)]
fn log<F: Float>(t: F) -> F {
    let single = t.f64() as f32;
    // The exponent that leaves a mantissa from √½ to √2.
    let exponent = (single.to_bits().wrapping_add(0x3f80_0000 - 0x3f35_04f3) >> 23) as i32 - 127;
    let m = t * F::of(f32::from_bits(((127 - exponent) as u32) << 23).into());
    let f = m - F::one();
    let s = f / (m + F::one());
    let z = s * s;
    let series = [1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let sum = series.iter().skip(1).fold(F::of(series[0]), |sum, c| F::of(*c) + sum * z);
    F::of(exponent.into()) * F::of(LN_2) + (s + s) * sum
}

/// erfinv(x)/x by w = −ln(1−x²): Giles 2012, "Approximating the erfinv function", in single precision. Of w − 2.5 below 5,
/// of √w − 3 from there; highest power first.
const CENTRE: [f64; 9] = [
    2.810_226_36e-8,
    3.432_739_39e-7,
    -3.523_387_7e-6,
    -4.391_506_54e-6,
    0.000_218_580_87,
    -0.001_253_725_03,
    -0.004_177_681_64,
    0.246_640_727,
    1.501_409_41,
];
const TAIL: [f64; 9] = [
    -0.000_200_214_257,
    0.000_100_950_558,
    0.001_349_343_22,
    -0.003_673_428_44,
    0.005_739_507_73,
    -0.007_622_461_3,
    0.009_438_870_47,
    1.001_674_06,
    2.832_976_82,
];

/// A number of N(0, 1) from the upper 24 bits k of a random word: where its distribution reaches (k + ½)/2²⁴, from −5.42
/// to 5.42.
#[inline(always)]
pub(crate) fn normal<F: Float>(word: u32) -> F {
    let odd = (word >> 8) * 2 + 1;
    let below = odd < 1 << 24;
    // How far x = 2u − 1 is from the nearer of ±1: odd multiples of 2⁻²⁴, exact, never 0.
    let from_end = if below { odd } else { (1 << 25) - odd };
    let s = F::of(from_end.into()) * F::of(1.0 / 16_777_216.0);
    let w = -log(s * (F::of(2.0) - s));
    let centre = w < F::of(5.0);
    let v = if centre { w - F::of(2.5) } else { w.max(F::of(5.0)).sqrt() - F::of(3.0) };
    let mut sum = F::zero();
    for (in_centre, in_tail) in CENTRE.iter().zip(&TAIL) {
        sum = F::of(if centre { *in_centre } else { *in_tail }) + sum * v;
    }
    let size = F::of(std::f64::consts::SQRT_2) * sum * (F::one() - s);
    if below { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: u32 = 1 << 24;

    /// Python's `statistics.NormalDist().inv_cdf((k + 0.5) / 2**24)`: algorithm AS 241 (Wichura 1988), good to 1e-15.
    const REFERENCE: &[(u32, f64)] = &[
        (0, -5.419983174916869),
        (1, -5.220113060600539),
        (2, -5.124692818431842),
        (3, -5.060922629574002),
        (7, -4.9136265719322285),
        (31, -4.624496590302653),
        (100, -4.377941790545687),
        (1_000, -3.8476240408811804),
        (5_000, -3.433379978961512),
        (22_000, -3.0088177416580684),
        (22_700, -2.9992883695201646),
        (23_000, -2.9952863290341183),
        (100_000, -2.5144746110507237),
        (565_000, -1.8293091533672383),
        (566_500, -1.8281161467318359),
        (1_000_000, -1.558100825081863),
        (2_500_000, -1.040681733842854),
        (4_194_304, -0.674489656412197),
        (6_000_000, -0.3648065747516946),
        (8_000_000, -0.05809321864350566),
        (8_388_607, -7.470334394666561e-08),
        (8_388_608, 7.470334394666561e-08),
        (8_500_000, 0.016643552848366792),
        (10_000_000, 0.24312696226209388),
        (12_345_678, 0.6306331215372919),
        (14_000_000, 0.9719611292119943),
        (15_999_999, 1.6815742526421271),
        (16_700_000, 2.6043524362100525),
        (16_750_000, 2.943585645677648),
        (16_776_000, 3.799652899436266),
        (16_777_000, 4.208654348083252),
        (16_777_200, 4.769401134312362),
        (16_777_214, 5.220113060600539),
        (16_777_215, 5.419983174916869),
    ];

    /// The share of N(0, 1) below −z: a series where it is quick, else the continued fraction of Mills' ratio.
    fn below(z: f64) -> f64 {
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if z > 3.0 {
            return density / (1..200).rev().fold(z, |fraction, k| z + f64::from(k) / fraction);
        }
        let (mut term, mut sum) = (z, z);
        for k in 1..60 {
            term *= z * z / f64::from(2 * k + 1);
            sum += term;
        }
        0.5 - density * sum
    }

    /// How far a number lies from where the distribution reaches that input, by the distribution itself.
    fn off(k: u32, z: f64) -> f64 {
        let u = (f64::from(k) + 0.5) / f64::from(INPUTS);
        let (u, z) = if u < 0.5 { (u, -z) } else { (1.0 - u, z) };
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (u - below(z)) / density
    }

    #[test]
    fn numbers_are_those_of_the_inverse_distribution() {
        for (k, expected) in REFERENCE {
            let (single, double) = (normal::<f32>(k << 8), normal::<f64>(k << 8));
            let allowed = 6e-7 * (1.0 + expected.abs());
            assert!((f64::from(single) - expected).abs() < allowed, "{k}: {single}, expected {expected}");
            assert!((double - expected).abs() < allowed, "{k}: {double}, expected {expected}");
            assert!(off(*k, *expected).abs() < 1e-11 * (1.0 + expected.abs()), "{k}");
            // The eight bits below count for nothing.
            assert_eq!(normal::<f32>(k << 8 | 0xff), single);
        }
        let mut worst = [0.0f64; 2];
        for k in (0..INPUTS).step_by(31).chain(0..5000) {
            let single = normal::<f32>(k << 8);
            assert_eq!(single, -normal::<f32>((INPUTS - 1 - k) << 8), "{k}");
            for (worst, z) in worst.iter_mut().zip([f64::from(single), normal::<f64>(k << 8)]) {
                *worst = worst.max(off(k, z).abs() / (1.0 + z.abs()));
            }
        }
        assert!(worst.iter().all(|worst| *worst < 6e-7), "{worst:?}");
    }

    /// All inputs together: moments, and the shares beyond whole deviations.
    #[test]
    fn all_inputs_together_have_the_moments_and_tails() {
        let (mut square, mut fourth, mut beyond) = (0.0, 0.0, [0u32; 5]);
        let mut last = f32::NEG_INFINITY;
        // The other half is its mirror image, so that the mean is 0.
        for k in 0..INPUTS / 2 {
            let z = normal::<f32>(k << 8);
            assert!(z >= last - 1e-6 * z.abs(), "{k}: {z} after {last}");
            last = z;
            let squared = f64::from(z) * f64::from(z);
            square += squared;
            fourth += squared * squared;
            (1..=5u8).zip(&mut beyond).for_each(|(d, beyond)| *beyond += u32::from(z < -f32::from(d)));
        }
        let half = f64::from(INPUTS / 2);
        assert!((square / half - 1.0).abs() < 1e-6, "{}", square / half);
        assert!((fourth / half - 3.0).abs() < 1e-4, "{}", fourth / half);
        for (deviations, beyond) in (1..=5u32).zip(beyond) {
            let expected = below(deviations.into()) * f64::from(INPUTS);
            assert!((f64::from(beyond) - expected).abs() < 2.0, "{deviations}: {beyond}, expected {expected}");
        }
    }
}
