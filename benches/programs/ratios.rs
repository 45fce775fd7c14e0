//! From what the runs took to ratios with their spread.

use crate::measure::Cost;

/// What the runs of one program took.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// By allocator, as in `allocators::all()`, and by round.
    pub(crate) costs: Vec<Vec<Cost>>,
}

/// One of the things that a run takes.
pub(crate) type Field = fn(&Cost) -> f64;

impl Row {
    /// An allocator's cost in each round.
    pub(crate) fn values(&self, allocator: usize, field: Field) -> Vec<f64> {
        self.costs[allocator].iter().map(field).collect()
    }

    /// An allocator's cost in each round, divided by the C library's in the same round: what the machine does
    /// meanwhile slows down both.
    pub(crate) fn ratios(&self, allocator: usize, field: Field) -> Vec<f64> {
        let pairs = self.costs[allocator].iter().zip(&self.costs[0]);
        pairs.map(|(cost, plain)| field(cost) / field(plain)).collect()
    }
}

/// In each round, the geometric mean of the programs' ratios.
pub(crate) fn means(rows: &[Row], allocator: usize, field: Field) -> Vec<f64> {
    let all: Vec<Vec<f64>> = rows.iter().map(|row| row.ratios(allocator, field)).collect();
    let mean = |round: usize| {
        let sum: f64 = all.iter().map(|ratios| ratios[round].ln()).sum();
        (sum / all.len() as f64).exp()
    };
    (0..all[0].len()).map(mean).collect()
}

/// The middle of some values, and where its quarters end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

/// The quartiles; between two values, in proportion.
pub(crate) fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (values.len() - 1) as f64 * share;
        let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    Spread { lower: at(0.25), median: at(0.5), upper: at(0.75) }
}
