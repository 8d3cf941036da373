//! Samples, medians, and verdicts on the goals.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    contestant::Contestant,
    figures::{Better, FIGURES, Figure, Goal},
    measure::Measured,
};

/// All results so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Results {
    /// The samples by contestant and key, one value for each round.
    samples: BTreeMap<(String, &'static str), Vec<f64>>,
    /// The measurements that failed, with the reasons.
    pub(super) failures: Vec<String>,
}

/// A figure of one contestant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    /// The distance of the lowest and the highest round, in percent of the median.
    pub(super) spread: f64,
}

/// Whether a goal is met.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// The goal in words.
    pub(super) goal: String,
    /// The value compared with the goal: a ratio, or the figure itself.
    pub(super) reached: f64,
    pub(super) met: bool,
}

// === impl Results ===

impl Results {
    /// Adds the figures of one measurement.
    pub(super) fn add(&mut self, contestant: &str, found: Measured) {
        for (key, value) in found {
            self.samples.entry((contestant.to_owned(), key)).or_default().push(value);
        }
    }

    /// The summary of a contestant's figure; none if the figure was not measured.
    pub(super) fn summary(&self, contestant: &str, key: &str) -> Option<Summary> {
        let samples = self.samples.iter().find(|((name, known), _)| name == contestant && *known == key)?.1;
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = median(&sorted)?;
        let (lowest, highest) = (sorted.first()?, sorted.last()?);
        let spread = if middle == 0.0 { 0.0 } else { (highest - lowest) / middle * 100.0 };
        Some(Summary { median: middle, spread })
    }

    /// The verdicts on a figure of `contestant`. A goal is left out if it needs a contestant that was not measured.
    pub(super) fn verdicts(&self, contestant: &str, figure: &Figure) -> Vec<Verdict> {
        let Some(own) = self.summary(contestant, figure.key) else { return Vec::new() };
        let verdict = |goal: &Goal| {
            let (reached, met) = self.reached(contestant, figure, own.median, *goal)?;
            Some(Verdict { goal: goal.words(figure.better), reached, met })
        };
        figure.goals.iter().filter_map(verdict).collect()
    }

    fn reached(&self, contestant: &str, figure: &Figure, own: f64, goal: Goal) -> Option<(f64, bool)> {
        let other = |key| self.summary(contestant, key).map(|other| other.median);
        Some(match goal {
            Goal::Times(times, than) => {
                let all = than.iter().filter_map(|name| self.summary(name, figure.key));
                let all = all.map(|other| other.median);
                let better = figure.better == Better::More;
                let best = all.reduce(if better { f64::max } else { f64::min })?;
                let ratio = own / best;
                (ratio, if better { ratio >= times } else { ratio <= times })
            }
            Goal::AtMost(most) => (own, own <= most),
            Goal::TimesOwn(times, key) => {
                let ratio = own / other(key)?;
                (ratio, ratio <= times)
            }
            Goal::MoreThanOwn(most, key) => {
                let more = own - other(key)?;
                (more, more <= most)
            }
        })
    }

    /// The figures that were measured for at least one contestant.
    pub(super) fn figures(&self) -> impl Iterator<Item = &'static Figure> {
        FIGURES.iter().filter(|figure| self.samples.keys().any(|(_, key)| *key == figure.key))
    }

    /// All results as JSON.
    pub(super) fn json(&self, contestants: &[Contestant], head: Value) -> Value {
        let figure = |figure: &'static Figure| {
            let of = |one: &Contestant| {
                let Summary { median, spread } = self.summary(&one.name, figure.key)?;
                let samples = self.samples.get(&(one.name.clone(), figure.key))?;
                let verdicts = if one.is_node() { self.verdicts(&one.name, figure) } else { Vec::new() };
                let goal = |one: Verdict| json!({"goal": one.goal, "reached": one.reached, "met": one.met});
                let goals: Vec<Value> = verdicts.into_iter().map(goal).collect();
                let result =
                    json!({"median": median, "spread_percent": spread, "rounds": samples, "goals": goals});
                Some((one.name.clone(), result))
            };
            let results: serde_json::Map<String, Value> = contestants.iter().filter_map(of).collect();
            let better = if figure.better == Better::More { "more" } else { "less" };
            let name = figure.name.trim_start();
            json!({"key": figure.key, "name": name, "unit": figure.unit, "better": better, "results": results})
        };
        let figures: Vec<Value> = self.figures().map(figure).collect();
        json!({"run": head, "figures": figures, "failures": self.failures})
    }
}

/// The median; for an even number of values, the mean of the two middle ones.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    let lower = if sorted.len().is_multiple_of(2) { sorted.get(middle.checked_sub(1)?)? } else { upper };
    Some(f64::midpoint(*lower, *upper))
}

#[cfg(test)]
mod tests;
