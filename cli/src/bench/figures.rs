//! What was measured, and the median over several runs.

use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// What was measured.
    pub(crate) name: &'static str,
    /// Of what the value is.
    pub(crate) unit: &'static str,
    /// The median of the runs.
    pub(crate) value: f64,
    /// Each run.
    pub(crate) runs: Vec<f64>,
}

impl Figures {
    /// A figure of one run.
    pub(crate) fn new(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, unit, value, runs: vec![value] }
    }
}

/// The figures of several runs, each with its median.
pub(super) fn medians(runs: Vec<Vec<Figures>>) -> Vec<Figures> {
    let mut all: Vec<Figures> = Vec::new();
    for figure in runs.into_iter().flatten() {
        match all.iter_mut().find(|known| known.name == figure.name) {
            Some(known) => known.runs.extend(figure.runs),
            None => all.push(figure),
        }
    }
    for figure in &mut all {
        figure.value = quantile(&figure.runs, 0.5);
    }
    all
}

/// The value below which this share of the values lies (nearest rank); 0 of none.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a few thousand values"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(0.0)
}

/// So many in so long, for each second.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn rate(count: usize, took: std::time::Duration) -> f64 {
    (count as f64 / took.as_secs_f64()).round()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_runs() {
        let runs = [3.0, 100.0, 1.0].map(|value| vec![Figures::new("a", "s", value)]).to_vec();
        let medians = medians(runs);
        assert_eq!((medians.len(), medians[0].value, &medians[0].runs), (1, 3.0, &vec![3.0, 100.0, 1.0]));
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&values, 0.0), quantile(&values, 0.99), quantile(&values, 1.0)), (1.0, 99.0, 100.0));
        assert_eq!(quantile(&[], 0.5).to_bits(), 0.0_f64.to_bits());
    }
}
