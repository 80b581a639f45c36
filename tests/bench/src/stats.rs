//! What repeated measurements say together.

/// The middle of some measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) count: usize,
}

impl Summary {
    /// Summarises `values`; `None` without any.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self {
            median: percentile_of_sorted(&sorted, 50.0)?,
            least: *sorted.first()?,
            most: *sorted.last()?,
            count: sorted.len(),
        })
    }

    /// The same in another unit.
    pub(crate) fn scaled(self, by: f64) -> Self {
        let Self { median, least, most, count } = self;
        Self { median: median * by, least: least * by, most: most * by, count }
    }
}

/// The ends of the middle half of what was measured; `None` without any.
pub(crate) fn middle_half(values: &[f64]) -> Option<[f64; 2]> {
    let sorted = sorted(values);
    Some([percentile_of_sorted(&sorted, 25.0)?, percentile_of_sorted(&sorted, 75.0)?])
}

/// The smallest measured value that at least `percent` of all do not exceed; `None` without any.
pub(crate) fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    percentile_of_sorted(&sorted(values), percent)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn percentile_of_sorted(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_middle_and_both_ends() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 9.0]).expect("five values");
        assert_eq!(summary, Summary { median: 3.0, least: 1.0, most: 9.0, count: 5 });
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn the_middle_half_leaves_out_a_quarter_at_each_end() {
        let values: Vec<f64> = (1..=12).map(f64::from).collect();
        assert_eq!(middle_half(&values), Some([3.0, 9.0]));
        assert_eq!(middle_half(&[7.0]), Some([7.0, 7.0]));
        assert_eq!(middle_half(&[]), None);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(100.0));
        assert_eq!(percentile(&values, 99.0), Some(198.0));
        assert_eq!(percentile(&values, 100.0), Some(200.0));
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
    }
}
