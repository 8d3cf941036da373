//! Suspicions against a slow model, which keeps a diary and reads all of it for each question. It was written from what
//! docs/differences.md and docs/data-path.md promise.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::protocols::property::{Tally, check};

/// A value of a workload: its name, and how many values there were before.
type Value = (usize, usize);

const HOPS: [&str; 2] = ["10.0.0.1:15008", "10.0.0.2:15008"];
const ASKED: [&str; 2] = ["10.1.0.1:80", "10.1.0.1:81"];
const WORKLOADS: usize = 2;

/// What a suspicion is about: a value of a workload dialled at a hop, and one destination there or all.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Subject {
    value: Value,
    hop: usize,
    asked: Option<usize>,
}

/// What happened, and when.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// A connection found that the subject fails.
    Fails(Subject),
    /// A connection found that the subject works.
    Works(Subject),
    /// A connection tries the subject, whose time is over.
    Tries(Subject, usize),
    /// A connection has ended its trial.
    Ends(usize),
}

/// Something that happens in a pod.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// A connection is routed, and tries what may be tried.
    Route(usize, usize, usize),
    /// A connection learns something of the value before so many pushes.
    Learn(usize, usize, usize, usize, Finding),
    /// The trial that began so many trials ago ends.
    End(usize),
    /// The control plane sends a workload anew.
    Push(usize),
}

/// The time, in milliseconds, and the diary.
#[derive(Default)]
struct Model {
    now: u64,
    diary: Vec<(u64, Entry)>,
}

/// The state of a suspicion.
#[derive(Clone, Copy, Debug)]
struct State {
    length: u64,
    until: u64,
    tried_by: Option<usize>,
}

impl State {
    /// What is over for 10 s and is not being tried is forgotten.
    fn is_remembered(&self, at: u64) -> bool {
        at < self.until + 10_000 || self.tried_by.is_some()
    }
}

impl Model {
    fn note(&mut self, entry: Entry) {
        self.diary.push((self.now, entry));
    }

    /// What the diary says of a subject.
    fn state(&self, subject: Subject) -> Option<State> {
        let mut state: Option<State> = None;
        for (at, entry) in &self.diary {
            state = state.filter(|state| state.is_remembered(*at));
            match entry {
                Entry::Works(works) if *works == subject => state = None,
                Entry::Fails(fails) if *fails == subject => {
                    let length = match state {
                        None => 100,
                        // The connection was on its way already.
                        Some(State { until, .. }) if *at < until => continue,
                        Some(State { length, .. }) => (2 * length).min(10_000),
                    };
                    state = Some(State { length, until: at + length, tried_by: None });
                }
                Entry::Tries(tries, trial) if *tries == subject => {
                    state = state.map(|state| State { tried_by: Some(*trial), ..state });
                }
                Entry::Ends(trial) => {
                    state = state.map(|state| {
                        let tried_by = state.tried_by.filter(|by| by != trial);
                        State { tried_by, ..state }
                    });
                }
                _ => {}
            }
        }
        state.filter(|state| state.is_remembered(self.now))
    }

    /// Whether a connection may try the subject, whose time is over.
    fn may_be_tried(&self, subject: Subject) -> bool {
        self.state(subject).is_some_and(|state| self.now >= state.until && state.tried_by.is_none())
    }

    /// Whether connections pass the subject over.
    fn is_passed_over(&self, subject: Subject) -> bool {
        self.state(subject).is_some() && !self.may_be_tried(subject)
    }
}

/// The way to a hop, and a destination there.
fn both(value: Value, hop: usize, asked: usize) -> [Subject; 2] {
    [Subject { value, hop, asked: None }, Subject { value, hop, asked: Some(asked) }]
}

/// What a pod goes through, with failures that go on and on.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = (0..WORKLOADS, 0..HOPS.len(), 0..ASKED.len());
    let failures = place.prop_map(|(workload, hop, asked)| {
        let lengths = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000];
        let fails = Step::Learn(workload, hop, asked, 0, Finding::HopFailed);
        lengths.iter().flat_map(|length| [fails, Step::Pass(*length)]).collect()
    });
    let all = prop_oneof![30 => step().prop_map(|step| vec![step]), 1 => failures];
    vec(all, 1..60).prop_map(|all| all.concat())
}

fn step() -> impl Strategy<Value = Step> {
    use Finding::*;
    let pass = select(vec![0, 1, 50, 99, 100, 101, 200, 400, 1_000, 6_400, 9_999, 10_000, 10_001, 25_000]);
    let place = || (0..WORKLOADS, 0..HOPS.len(), 0..ASKED.len());
    let finding = select(vec![HopFailed, HopFailed, HopFailed, DestinationFailed, Reached, Nothing]);
    prop_oneof![
        6 => pass.prop_map(Step::Pass),
        4 => place().prop_map(|(workload, hop, asked)| Step::Route(workload, hop, asked)),
        8 => (place(), prop_oneof![6 => Just(0_usize), 1 => Just(1)], finding)
            .prop_map(|((workload, hop, asked), ago, finding)| Step::Learn(workload, hop, asked, ago, finding)),
        3 => (0..3_usize).prop_map(Step::End),
        1 => (0..WORKLOADS).prop_map(Step::Push),
    ]
}

#[test]
fn suspicions_are_those_of_a_slow_model() {
    let tally = Tally::default();
    check(400, &steps(), |steps| {
        let (mut suspects, mut model, start) = (Suspects::default(), Model::default(), Instant::now());
        // Connections that are on their way keep former values of workloads alive.
        let mut values: BTreeMap<Value, Arc<Workload>> =
            (0..WORKLOADS).map(|workload| ((workload, 0), super::workload())).collect();
        let mut trials = Vec::new();
        for step in steps {
            let now = start + Duration::from_millis(model.now);
            let latest = |workload: usize| {
                values.keys().filter(|(known, _)| *known == workload).map(|(_, value)| *value).max().unwrap()
            };
            match step {
                Step::Pass(millis) => model.now += millis,
                Step::Push(workload) => {
                    values.insert((workload, latest(workload) + 1), super::workload());
                }
                Step::Route(workload, hop, asked) => {
                    let value = (workload, latest(workload));
                    let tried: Vec<Subject> = both(value, hop, asked)
                        .into_iter()
                        .filter(|what| model.may_be_tried(*what))
                        .collect();
                    // A connection is routed to what is passed over, too, where there is nothing else.
                    let route = Route {
                        hop: Hop::Tcp { to: Upstream::Ip(addr(HOPS[hop])) },
                        destination: Some(values[&value].clone()),
                        service: None,
                    };
                    let begun = suspects.begin(&route, OrigDst::new(addr(ASKED[asked])), now);
                    prop_assert_eq!(begun.is_some(), !tried.is_empty(), "{:?} of {:?}", step, tried);
                    for what in tried {
                        model.note(Entry::Tries(what, trials.len()));
                        tally.count("tried");
                    }
                    trials.extend(begun);
                }
                Step::Learn(workload, hop, asked, ago, finding) => {
                    let value = (workload, latest(workload).saturating_sub(ago));
                    let [way, destination] = both(value, hop, asked);
                    match finding {
                        Finding::HopFailed => model.note(Entry::Fails(way)),
                        // The next hop has answered.
                        Finding::DestinationFailed => {
                            model.note(Entry::Works(way));
                            model.note(Entry::Fails(destination));
                        }
                        Finding::Reached => {
                            model.note(Entry::Works(way));
                            model.note(Entry::Works(destination));
                        }
                        Finding::Nothing => {}
                    }
                    let asked = OrigDst::new(addr(ASKED[asked]));
                    let tried = Tried { workload: &values[&value], hop: addr(HOPS[hop]), asked };
                    suspects.learn(&tried, finding, now);
                }
                Step::End(ago) => {
                    if let Some(trial) = trials.len().checked_sub(ago + 1) {
                        model.note(Entry::Ends(trial));
                        suspects.end(trials[trial]);
                    }
                }
            }
            let now = start + Duration::from_millis(model.now);
            suspects.tidy(now);
            for (value, workload) in &values {
                for (hop, asked) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let want = both(*value, hop, asked).into_iter().any(|what| model.is_passed_over(what));
                    let of = suspects.of(OrigDst::new(addr(ASKED[asked])), now);
                    let got = of.falls_on(workload, addr(HOPS[hop]));
                    prop_assert_eq!(got, want, "{:?} at {} for {} after {:?}", value, hop, asked, step);
                    tally.count(if got { "passed over" } else { "not passed over" });
                }
            }
            let longest = |value: &Value| {
                let way = both(*value, 0, 0)[0];
                model.state(way).map_or(0, |state| state.length)
            };
            tally.count(match values.keys().map(longest).max() {
                Some(10_000) => "as long as may be",
                Some(200..10_000) => "doubled",
                _ => "short",
            });
        }
        Ok(())
    });
    tally.has_each_of(&["tried", "passed over", "not passed over", "doubled", "as long as may be"], 20);
}
