//! Whether the scheduler is the best router of a comparison, column by column.
//!
//! Two routers see the same fortnights and are compared by the differences within each, since
//! fortnights differ far more by chance than routers do. A difference that chance alone would cause
//! in one of twenty comparisons is noise.

use super::tally::{Better, FIGURES, Tally};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Best,
    WithinNoise,
    Behind,
}

/// The scheduler compared with the best rival in one column.
#[derive(Clone, Debug)]
pub struct Compared {
    pub figure: &'static str,
    pub rival: String,
    pub verdict: Verdict,
    /// The mean of the differences and its standard error; positive if the scheduler is better.
    pub ahead: f64,
    pub error: f64,
}

/// Compares the tallies of all routers, the scheduler's first, for each fortnight. The rows up to
/// `own` are the scheduler with other settings and do not count as rivals.
pub fn judge(names: &[String], own: usize, fortnights: &[Vec<Tally>]) -> Vec<Compared> {
    let judge = |figure: &super::tally::Figure| {
        let sign = match figure.better {
            Better::More => 1.0,
            Better::Less => -1.0,
        };
        let ahead = |rival: usize| {
            let differences: Vec<f64> = fortnights
                .iter()
                .map(|rows| sign * ((figure.of)(&rows[0]) - (figure.of)(&rows[rival])))
                .collect();
            let count = differences.len() as f64;
            let mean = differences.iter().sum::<f64>() / count;
            let squares = differences.iter().map(|one| (one - mean).powi(2)).sum::<f64>();
            (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
        };
        let rivals = (own..names.len()).map(|rival| (rival, ahead(rival)));
        let (rival, (ahead, error)) = rivals.min_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
        let verdict = match () {
            () if ahead >= 0.0 => Verdict::Best,
            () if ahead >= -noise(fortnights.len()) * error => Verdict::WithinNoise,
            () => Verdict::Behind,
        };
        Some(Compared { figure: figure.name, rival: names[rival].clone(), verdict, ahead, error })
    };
    FIGURES.iter().filter_map(judge).collect()
}

/// How many standard errors of a mean of `count` differences are noise: Student's t for 95 %.
fn noise(count: usize) -> f64 {
    let few = [f64::INFINITY, f64::INFINITY, 12.7, 4.3, 3.2, 2.8, 2.6, 2.4, 2.4, 2.3];
    few.get(count).copied().unwrap_or(2.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(ours: &[f64], theirs: &[f64]) -> Verdict {
        let tally = |done: f64| {
            let mut tally = Tally::default();
            (tally.asked, tally.bound, tally.done) = (100.0, 100.0, done);
            tally
        };
        let pairs = ours.iter().zip(theirs);
        let fortnights: Vec<_> = pairs.map(|(a, b)| vec![tally(*a), tally(*b)]).collect();
        judge(&["ours".into(), "theirs".into()], 1, &fortnights)[0].verdict
    }

    #[test]
    fn a_column_is_won_lost_or_undecided() {
        assert_eq!(judged(&[50.0, 90.0], &[49.0, 89.0]), Verdict::Best);
        assert_eq!(judged(&[49.0, 89.1, 70.0], &[50.0, 90.0, 71.0]), Verdict::Behind);
        assert_eq!(judged(&[50.0, 80.0, 51.0], &[51.0, 82.0, 50.0]), Verdict::WithinNoise);
    }
}
