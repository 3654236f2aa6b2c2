//! Rules against each other: the same start, the same number of steps, and for each rule the learning
//! rate that serves it best.

pub mod digits;
pub mod functions;

/// Learning rates to try: three in each decade.
pub fn rates(lowest: i32, highest: i32) -> Vec<f64> {
    (3 * lowest..=3 * highest)
        .map(|third| {
            let (decade, place) = (third.div_euclid(3), third.rem_euclid(3) as usize);
            [1.0, 2.0, 5.0][place] * 10f64.powi(decade)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn rates_rise_by_three_in_a_decade() {
        assert_eq!(super::rates(-2, 0), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
    }
}
