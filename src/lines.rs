//! Lines of a tensor: rows, columns or units, each with a sum of its own. Pure arithmetic, no device.
//!
//! A line is a stretch of elements at one constant distance. Rules that keep averages by row and column
//! ([`Slot::mean_square`](crate::rule::Slot::mean_square)) and the unit-wise clip need their sums.

/// All lines of one kind in a tensor, which share its elements out among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lines {
    /// How many there are.
    pub count: u64,
    /// Elements of each.
    pub length: u64,
    /// Elements from one to the next in a line.
    pub stride: u64,
    /// Lines whose first elements are neighbours.
    pub inner: u64,
    /// Elements from one such set of lines to the next.
    pub outer: u64,
}

/// The tensor as a stack of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrices {
    /// How many.
    pub count: u64,
    /// Rows of each.
    pub rows: u64,
    /// Columns of each.
    pub columns: u64,
}

impl Matrices {
    /// The last two dimensions, over all others; `None` for a vector or a scalar.
    pub fn of(shape: &[u64]) -> Option<Self> {
        let [outer @ .., rows, columns] = shape else { return None };
        Some(Self { count: outer.iter().product(), rows: *rows, columns: *columns })
    }

    /// Rows: along the last dimension.
    pub fn row_lines(&self) -> Lines {
        Lines { count: self.count * self.rows, length: self.columns, stride: 1, inner: 1, outer: self.columns }
    }

    /// Columns: along the last dimension but one.
    pub fn column_lines(&self) -> Lines {
        Lines {
            count: self.count * self.columns,
            length: self.rows,
            stride: self.columns,
            inner: self.columns,
            outer: self.rows * self.columns,
        }
    }

    /// Of values that there is one of for each row, those of one matrix.
    pub fn matrix_lines(&self) -> Lines {
        Lines { count: self.count, length: self.rows, stride: 1, inner: 1, outer: self.rows }
    }
}

impl Lines {
    /// The units of the adaptive clip (Brock et al. 2021), as Optax's `adaptive_grad_clip` has them: the
    /// whole of a tensor with at most one dimension longer than 1, else what shares the place in the
    /// last dimension (in the last two of three, as there). `None` for more than five dimensions.
    pub fn units(shape: &[u64]) -> Option<Self> {
        let elements: u64 = shape.iter().product();
        let squeezed = shape.iter().filter(|n| **n != 1).count();
        let count = match shape {
            _ if squeezed <= 1 => 1,
            [_, n] | [_, _, _, n] | [_, _, _, _, n] => *n,
            [_, m, n] => m * n,
            _ => return None,
        };
        let length = elements.checked_div(count).unwrap_or(0);
        Some(Self { count, length, stride: count, inner: count, outer: elements })
    }

    /// The `k`-th element of a line.
    pub fn element(&self, line: u64, k: u64) -> u64 {
        line / self.inner * self.outer + line % self.inner + k * self.stride
    }

    /// Sums of `f` over the elements of each line in `range`.
    pub fn sums(&self, range: std::ops::Range<u64>, f: impl Fn(usize) -> f64) -> Vec<f64> {
        if self.stride == 1 {
            let sum = |line| (0..self.length).fold(0.0, |sum, k| sum + f(self.element(line, k) as usize));
            return range.map(sum).collect();
        }
        // In the order of memory.
        let mut sums = vec![0.0; (range.end - range.start) as usize];
        for k in 0..self.length {
            for (sum, line) in sums.iter_mut().zip(range.clone()) {
                *sum += f(self.element(line, k) as usize);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(lines: Lines, elements: u64) {
        let mut seen = vec![0; elements as usize];
        for line in 0..lines.count {
            for k in 0..lines.length {
                seen[lines.element(line, k) as usize] += 1;
            }
        }
        assert!(seen.iter().all(|n| *n == 1), "{lines:?}: {seen:?}");
    }

    #[test]
    fn lines_share_the_elements_out() {
        for shape in [vec![3, 5], vec![2, 3, 5], vec![4, 2, 3, 5], vec![1, 7], vec![7, 1], vec![2, 1, 3, 2, 5]] {
            let elements = shape.iter().product();
            let matrices = Matrices::of(&shape).unwrap();
            covers(matrices.row_lines(), elements);
            covers(matrices.column_lines(), elements);
            covers(matrices.matrix_lines(), elements / shape[shape.len() - 1]);
            covers(Lines::units(&shape).unwrap(), elements);
        }
        assert_eq!(Matrices::of(&[4]), None);
        assert_eq!(Lines::units(&[2; 6]), None);
    }

    #[test]
    fn units_are_those_of_optax() {
        let count = |shape: &[u64]| Lines::units(shape).unwrap().count;
        assert_eq!([count(&[]), count(&[9]), count(&[1, 9, 1])], [1; 3]);
        assert_eq!(count(&[4, 9]), 9);
        assert_eq!(count(&[3, 4, 9]), 36);
        assert_eq!(count(&[3, 3, 4, 9]), 9);
        assert_eq!(count(&[2, 3, 3, 4, 9]), 9);
        // More than five dimensions, of which one is longer than 1.
        assert_eq!(count(&[1, 1, 1, 1, 1, 9]), 1);
    }

    #[test]
    fn both_orders_of_summation_give_the_sums() {
        let matrices = Matrices::of(&[2, 3, 4]).unwrap();
        let f = |e: usize| e as f64;
        assert_eq!(matrices.row_lines().sums(1..3, f), [22.0, 38.0]);
        assert_eq!(matrices.column_lines().sums(3..6, f), [21.0, 48.0, 51.0]);
    }
}
