//! Conversions between f32 and its halves, in integers: a GPU may flush subnormal numbers and rounds
//! `pack2x16float` as it likes. `shaders/storage` does the same.
//!
//! Rounded to nearest, what passes a format's range becomes infinite, as in IEEE 754: a gradient that
//! overflows must show. Rounded by chance, a finite number stays finite. Infinity stays infinite and NaN a
//! NaN.

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;

/// The value of a bf16.
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16, ties to even.
pub fn bf16_bits(value: f32) -> u16 {
    // The carry of a tie at an odd number.
    bf16_from(value, 0x7f80, |bits| 0x7fff + (bits >> 16 & 1))
}

/// Likewise, but a finite number stays finite: of state, which would never come back from infinity.
pub fn finite_bf16_bits(value: f32) -> u16 {
    bf16_from(value, 0x7f7f, |bits| 0x7fff + (bits >> 16 & 1))
}

/// The bf16 below or above, by 16 random bits: the share of draws that go up is the distance from the
/// one below.
pub fn stochastic_bf16_bits(value: f32, random: u16) -> u16 {
    bf16_from(value, 0x7f7f, |_| random.into())
}

fn bf16_from(value: f32, largest: u32, carry: impl Fn(u32) -> u32) -> u16 {
    let bits = value.to_bits();
    let size = bits & !SIGN;
    let half = match size {
        // Not all of a NaN's digits may be in the lower half.
        0x7f80_0001.. => (bits >> 16) | 0x40,
        INFINITY => bits >> 16,
        _ => (bits & SIGN) >> 16 | ((size + carry(bits)) >> 16).min(largest),
    };
    half as u16
}

/// The value of an f16.
pub fn f16_value(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let size = u32::from(bits & 0x7fff);
    let wide = match size {
        0 => 0,
        // Subnormal: so many units of 2^-24, each of which f32 holds as a normal number.
        1..=0x3ff => {
            let top = size.ilog2();
            (top + 127 - 24) << 23 | (size << (23 - top) & 0x007f_ffff)
        }
        0x400..=0x7bff => (size << 13) + ((127 - 15) << 23),
        _ => INFINITY | size << 13,
    };
    f32::from_bits(sign | wide & !SIGN)
}

/// The nearest f16, ties to even.
pub fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let size = bits & !SIGN;
    let half = match size {
        0x7f80_0001.. => 0x7e00 | (size >> 13 & 0x3ff),
        INFINITY => 0x7c00,
        // From 2^-14 on: rebias the exponent, round off 13 digits.
        0x3880_0000.. => {
            let rebased = size - ((127 - 15) << 23);
            ((rebased + 0xfff + (rebased >> 13 & 1)) >> 13).min(0x7c00)
        }
        // Down to half of 2^-24: units of 2^-24.
        0x3300_0000.. => {
            let digits = size & 0x007f_ffff | 0x0080_0000;
            let drop = 126 - (size >> 23);
            let kept = digits >> drop;
            let rest = digits & ((1 << drop) - 1);
            let half = 1 << (drop - 1);
            kept + u32::from(rest > half || rest == half && kept & 1 == 1)
        }
        _ => 0,
    };
    (bits >> 16 & 0x8000 | half) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_patterns_of_16_bits_widen_and_come_back() {
        for bits in 0..=u16::MAX {
            let (bf16, f16) = (half::bf16::from_bits(bits), half::f16::from_bits(bits));
            if f16.is_nan() {
                assert!(f16_value(bits).is_nan() && f16_bits(f16_value(bits)) == bits | 0x200, "{bits:#x}");
            } else {
                assert_eq!(f16_value(bits).to_bits(), f16.to_f32().to_bits(), "{bits:#x}");
                assert_eq!(f16_bits(f16_value(bits)), bits);
            }
            if bf16.is_nan() {
                assert!(bf16_value(bits).is_nan() && bf16_bits(bf16_value(bits)) == bits | 0x40, "{bits:#x}");
            } else {
                assert_eq!(bf16_value(bits).to_bits(), bf16.to_f32().to_bits(), "{bits:#x}");
                assert_eq!(bf16_bits(bf16_value(bits)), bits);
            }
        }
    }

    /// Between all neighbours: the tie and what is just beside it, on both sides of zero.
    #[test]
    fn ties_go_to_even_and_what_is_beside_them_to_the_nearest() {
        let check = |value: f32| {
            for value in [value, -value] {
                assert_eq!(f16_bits(value), half::f16::from_f32(value).to_bits(), "f16 of {value:e}");
                assert_eq!(bf16_bits(value), half::bf16::from_f32(value).to_bits(), "bf16 of {value:e}");
            }
        };
        let around = |low: f32, high: f32| {
            let middle = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
            [middle, middle.next_up(), middle.next_down()].into_iter().for_each(check);
        };
        for bits in 0..0x7bff {
            around(f16_value(bits), f16_value(bits + 1));
        }
        for bits in 0..0x7f7f {
            around(bf16_value(bits), bf16_value(bits + 1));
        }
        [65_504.0, 65_519.9, 65_520.0, 1e30, f32::MAX, 2f32.powi(-25), 2f32.powi(-26)].into_iter().for_each(check);
    }

    #[test]
    fn infinity_stays_and_a_nan_whose_digits_are_low_stays_one() {
        for sign in [0, SIGN] {
            let infinity = f32::from_bits(INFINITY | sign);
            assert_eq!(f16_value(f16_bits(infinity)), infinity);
            assert_eq!(bf16_value(bf16_bits(infinity)), infinity);
            assert_eq!(bf16_value(stochastic_bf16_bits(infinity, u16::MAX)), infinity);
            let nan = f32::from_bits((INFINITY + 1) | sign);
            assert!(f16_value(f16_bits(nan)).is_nan());
            assert!(bf16_value(bf16_bits(nan)).is_nan());
            assert!(bf16_value(stochastic_bf16_bits(nan, 0)).is_nan());
        }
        assert_eq!(bf16_value(stochastic_bf16_bits(f32::MAX, u16::MAX)), bf16_value(0x7f7f));
        assert_eq!(bf16_value(finite_bf16_bits(-f32::MAX)), -bf16_value(0x7f7f));
        assert_eq!(bf16_value(bf16_bits(f32::MAX)), f32::INFINITY);
    }

    #[test]
    fn a_number_that_the_format_holds_is_never_rounded_by_chance() {
        for bits in (0..=0x7f7fu16).step_by(7) {
            for random in [0, 1, 0x7fff, u16::MAX] {
                assert_eq!(stochastic_bf16_bits(bf16_value(bits), random), bits);
            }
        }
    }
}
