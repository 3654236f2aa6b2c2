//! Eight bits an element: an index into a table of 256 values in [−1, 1], times the largest magnitude
//! of its 256 neighbours (Dettmers et al. 2022). `shaders/storage/q8.wgsl` is the twin.

use std::sync::OnceLock;

/// Elements that share a scale.
pub const Q8_BLOCK: u32 = 256;

/// Elements from which on a tensor is compressed: below, there is nothing to save.
pub const Q8_MIN_ELEMENTS: u64 = 4096;

/// Decades that the table covers.
const DECADES: i32 = 7;

/// A table of codes: the values in order, and between neighbours the bounds that tell them apart.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeTable {
    /// The value of each code.
    pub values: [f32; 256],
    /// Halfway from each code to the next; a value above belongs to the next. The last is unused.
    pub bounds: [f32; 256],
    /// The code of zero.
    pub zero: u8,
}

/// The dynamic code of bitsandbytes: decades from 1e-7 to 1, each with twice as many steps as the one
/// below; zero; and one.
pub fn code_table(signed: bool) -> &'static CodeTable {
    static TABLES: [OnceLock<CodeTable>; 2] = [OnceLock::new(), OnceLock::new()];
    TABLES[usize::from(signed)].get_or_init(|| make(signed))
}

fn make(signed: bool) -> CodeTable {
    let mut all = vec![0.0, 1.0];
    for decade in 0..DECADES {
        // With a sign, half the codes are for each side.
        let steps = 1 << (decade + i32::from(!signed));
        for step in 0..steps {
            let share = 0.1 + 0.9 * (f64::from(step) + 0.5) / f64::from(steps);
            let value = share * 10f64.powi(decade - (DECADES - 1));
            all.push(value);
            if signed {
                all.push(-value);
            }
        }
    }
    all.sort_by(f64::total_cmp);
    let mut table = CodeTable { values: [0.0; 256], bounds: [f32::INFINITY; 256], zero: 0 };
    for (slot, value) in table.values.iter_mut().zip(&all) {
        *slot = *value as f32;
    }
    for (code, pair) in all.windows(2).enumerate() {
        table.bounds[code] = ((pair[0] + pair[1]) / 2.0) as f32;
    }
    table.zero = all.iter().position(|x| *x == 0.0).unwrap_or(0) as u8;
    table
}

/// The codes of up to 256 values for the scale, and the scale: that given, or the largest magnitude. Values that were
/// stored at the given scale come out as they were, to the bit.
pub fn q8_codes(values: &[f32], signed: bool, scale: Option<f32>, codes: &mut [u8]) -> f32 {
    let table = code_table(signed);
    // By the bits, as the GPU compares them: NaN is above all.
    let largest = values.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let own = f32::from_bits(largest);
    for (code, value) in codes.iter_mut().zip(values) {
        let stored = scale.and_then(|scale| stored_code(*value, scale, table));
        *code = stored.unwrap_or_else(|| code_of(*value, scale.unwrap_or(own), table));
    }
    scale.unwrap_or(own)
}

/// The code that has that value at that scale, where there is one. It need not be the nearest by
/// [`code_of`]: at a subnormal scale products are rounded coarsely, those with bounds too.
fn stored_code(value: f32, scale: f32, table: &CodeTable) -> Option<u8> {
    let code = table.values.partition_point(|x| (x * scale).total_cmp(&value).is_lt());
    let found = table.values.get(code)? * scale;
    (found.to_bits() == value.to_bits()).then_some(code as u8)
}

/// The nearest code. A product each, not a quotient: division may be rounded in any way on a GPU.
/// A value below zero never becomes zero, so that it keeps its sign.
fn code_of(value: f32, scale: f32, table: &CodeTable) -> u8 {
    if value == 0.0 {
        return table.zero;
    }
    let mut code = 0usize;
    let mut step = 128;
    while step > 0 {
        if table.bounds[code + step - 1] * scale < value {
            code += step;
        }
        step /= 2;
    }
    if value < 0.0 && code == usize::from(table.zero) {
        code = code.saturating_sub(1);
    }
    code as u8
}

/// The values of codes at a scale.
pub fn q8_values(codes: &[u8], scale: f32, signed: bool) -> impl Iterator<Item = f32> {
    let table = code_table(signed);
    codes.iter().map(move |code| table.values[usize::from(*code)] * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_those_of_bitsandbytes() {
        for signed in [false, true] {
            let table = code_table(signed);
            assert!(table.values.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!((table.values[255], table.values[usize::from(table.zero)]), (1.0, 0.0));
            assert_eq!(table.zero, if signed { 127 } else { 0 });
        }
        // Of its published table: the ends, and around zero.
        let signed = &code_table(true).values;
        assert_eq!([signed[0], signed[126], signed[128], signed[254]], [-0.992_968_75, -5.5e-7, 5.5e-7, 0.992_968_75]);
        let unsigned = &code_table(false).values;
        assert_eq!([unsigned[1], unsigned[2], unsigned[254]], [3.25e-7, 7.75e-7, 0.996_484_4]);
    }

    #[test]
    fn a_value_takes_its_nearest_code() {
        for signed in [false, true] {
            let table = code_table(signed);
            for scale in [1.0f32, 3e-7, 1.7e9] {
                for i in -3000i32..=3000 {
                    let value = if signed { 1.0 } else { (i.signum() * i.signum()) as f32 } * i as f32 / 3000.0;
                    let value = if signed { value } else { value.abs() } * scale;
                    let code = code_of(value, scale, table);
                    let off = |code: u8| {
                        (f64::from(table.values[usize::from(code)]) * f64::from(scale) - f64::from(value)).abs()
                    };
                    let best = (0..=255).map(off).fold(f64::INFINITY, f64::min);
                    // Ties may go either way by rounding.
                    assert!(off(code) <= best + 1e-6 * f64::from(value.abs()), "{value} at {scale}: {code}");
                }
            }
        }
    }

    #[test]
    fn codes_survive_their_values() {
        for signed in [false, true] {
            let codes: Vec<u8> = (0..=255).collect();
            // The scale is kept: the largest negative code is less than it.
            let values: Vec<f32> = q8_values(&codes[..255], 0.37, signed).collect();
            let mut again = vec![0; 255];
            q8_codes(&values, signed, Some(0.37), &mut again);
            assert_eq!(again, codes[..255]);
        }
    }

    /// Also where several codes have one value. A fuzzer's find: at subnormal scales some came out as others.
    #[test]
    fn values_at_a_given_scale_come_out_to_the_bit() {
        let codes: Vec<u8> = (0..=255).collect();
        for signed in [false, true] {
            let scales = (0..200u32).chain((0..0x7f80_0000).step_by(19_088_743)).map(f32::from_bits);
            for scale in scales {
                let bits = |codes: &[u8]| q8_values(codes, scale, signed).map(f32::to_bits).collect::<Vec<_>>();
                let values: Vec<f32> = q8_values(&codes, scale, signed).collect();
                let mut again = vec![0; 256];
                assert_eq!(q8_codes(&values, signed, Some(scale), &mut again), scale);
                assert_eq!(bits(&again), bits(&codes), "scale {scale:e}");
            }
        }
    }

    #[test]
    fn nothing_but_zeros_is_zero() {
        let mut codes = [9; 3];
        assert_eq!(q8_codes(&[0.0, -0.0, 0.0], true, None, &mut codes), 0.0);
        assert_eq!(codes, [127; 3]);
        assert!(q8_values(&codes, 0.0, true).all(|x| x.to_bits() == 0));
    }

    #[test]
    fn what_is_negative_stays_so() {
        let mut codes = [0; 2];
        q8_codes(&[1.0, -1e-12], true, None, &mut codes);
        assert!(q8_values(&codes, 1.0, true).nth(1).is_some_and(|x| x < 0.0));
    }
}
