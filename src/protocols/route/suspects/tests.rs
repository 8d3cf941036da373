//! How long a suspicion lasts, whom it concerns, and what ends it.

mod model;

use super::*;
use crate::protocols::{
    mesh::fixtures::{addr, pod},
    route::Hop,
};

const HOP: &str = "10.0.0.1:15008";
const ASKED: &str = "10.1.0.1:80";

/// The suspicions of a pod, and the time.
struct Ledger {
    suspects: Suspects,
    workload: Arc<Workload>,
    now: Instant,
}

impl Ledger {
    fn new() -> Self {
        Self { suspects: Suspects::default(), workload: workload(), now: Instant::now() }
    }

    fn learn(&mut self, hop: &str, asked: &str, finding: Finding) {
        let tried = Tried { workload: &self.workload, hop: addr(hop), asked: OrigDst::new(addr(asked)) };
        self.suspects.learn(&tried, finding, self.now);
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn is_suspect(&self, hop: &str, asked: &str) -> bool {
        self.suspects.of(OrigDst::new(addr(asked)), self.now).falls_on(&self.workload, addr(hop))
    }

    fn begin(&mut self, hop: &str, asked: &str) -> Option<TrialNumber> {
        let route = Route {
            hop: Hop::Tcp { to: Upstream::Ip(addr(hop)) },
            destination: Some(self.workload.clone()),
            service: None,
        };
        self.suspects.begin(&route, OrigDst::new(addr(asked)), self.now)
    }

    /// How long the suspicion of [`HOP`] lasts from now on, in milliseconds.
    fn length(&self) -> u128 {
        let entry = self.suspects.entries.get(&Key::both(&self.workload, addr(HOP), addr(ASKED))[0]).unwrap();
        entry.until.saturating_duration_since(self.now).as_millis()
    }
}

fn workload() -> Arc<Workload> {
    Arc::new(pod("one", "10.0.0.1").hbone().decode())
}

#[test]
fn a_suspicion_concerns_what_failed_and_nothing_else() {
    use Finding::*;
    let (other_hop, other_port) = ("10.0.0.2:15008", "10.1.0.1:81");
    // Finding; whether the next hop is suspect for the destination asked for, and for another one; why.
    let table = [
        (HopFailed, true, true, "no destination is reached by a way that fails"),
        (DestinationFailed, true, false, "another port may be served"),
        (Reached, false, false, "nothing failed"),
        (Nothing, false, false, "the next hop is not to blame"),
    ];
    for (finding, same, other, why) in table {
        let mut ledger = Ledger::new();
        ledger.learn(HOP, ASKED, finding);
        assert_eq!(
            (ledger.is_suspect(HOP, ASKED), ledger.is_suspect(HOP, other_port)),
            (same, other),
            "{why}"
        );
        assert!(!ledger.is_suspect(other_hop, ASKED), "{why}");
    }
}

#[test]
fn a_suspicion_doubles_while_its_suspect_fails_and_never_passes_ten_seconds() {
    let mut ledger = Ledger::new();
    let mut lengths = Vec::new();
    for _ in 0..9 {
        ledger.learn(HOP, ASKED, Finding::HopFailed);
        // Connections that were on their way fail at the same time, and teach nothing new.
        ledger.learn(HOP, ASKED, Finding::HopFailed);
        lengths.push(ledger.length());
        let length = Duration::from_millis(u64::try_from(ledger.length()).unwrap());
        ledger.after(length);
    }
    assert_eq!(lengths, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
}

#[test]
fn a_suspicion_that_is_over_lets_one_connection_at_a_time_try() {
    let mut ledger = Ledger::new();
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    assert_eq!(ledger.begin(HOP, ASKED), None, "the suspicion is not over");
    ledger.after(SUSPECT_FOR);
    assert!(!ledger.is_suspect(HOP, ASKED), "a connection may try");
    let trial = ledger.begin(HOP, ASKED).unwrap();
    assert!(ledger.is_suspect(HOP, ASKED) && ledger.begin(HOP, ASKED).is_none(), "no second one tries");
    ledger.suspects.end(trial);
    assert!(!ledger.is_suspect(HOP, ASKED), "a trial without a finding is followed by another");
    let second = ledger.begin(HOP, ASKED).unwrap();
    assert_ne!(trial, second);
    ledger.suspects.end(trial);
    assert!(ledger.is_suspect(HOP, ASKED), "a trial ends its own turn only");
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    ledger.suspects.end(second);
    assert_eq!((ledger.is_suspect(HOP, ASKED), ledger.length()), (true, 200), "the trial failed");
}

#[test]
fn a_success_ends_the_suspicions_of_its_way_and_destination() {
    let other_port = "10.1.0.1:81";
    let mut ledger = Ledger::new();
    ledger.learn(HOP, ASKED, Finding::DestinationFailed);
    ledger.learn(HOP, other_port, Finding::DestinationFailed);
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    ledger.learn(HOP, ASKED, Finding::Reached);
    assert!(!ledger.is_suspect(HOP, ASKED));
    assert!(ledger.is_suspect(HOP, other_port), "the other port was not reached");
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    assert_eq!(ledger.length(), 100, "a suspicion after a success is a new one");
    ledger.learn(HOP, ASKED, Finding::DestinationFailed);
    assert!(!ledger.is_suspect(HOP, "10.1.0.1:82"), "a destination that fails shows that its way works");
}

#[test]
fn a_push_of_the_workload_ends_its_suspicions() {
    let mut ledger = Ledger::new();
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    ledger.learn(HOP, ASKED, Finding::DestinationFailed);
    let former = std::mem::replace(&mut ledger.workload, workload());
    assert!(!ledger.is_suspect(HOP, ASKED));
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    assert_eq!(ledger.length(), 100);
    drop(former);
    ledger.suspects.tidy(ledger.now);
    assert_eq!(ledger.suspects.entries.len(), 1, "suspicions of workloads that are gone are forgotten");
}

#[test]
fn a_suspicion_that_nobody_tries_is_forgotten() {
    let mut ledger = Ledger::new();
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    let now = ledger.after(SUSPECT_FOR + REMEMBERED_FOR - Duration::from_millis(1)).now;
    ledger.suspects.tidy(now);
    assert!(!ledger.suspects.is_empty());
    let now = ledger.after(Duration::from_millis(1)).now;
    ledger.suspects.tidy(now);
    assert!(ledger.suspects.is_empty());
}

#[test]
fn suspicions_are_bounded_and_the_first_to_end_makes_room() {
    let mut ledger = Ledger::new();
    ledger.learn(HOP, ASKED, Finding::HopFailed);
    for port in 1..=u16::try_from(MAX_SUSPICIONS).unwrap() {
        ledger.after(Duration::from_nanos(1));
        ledger.learn(HOP, &format!("10.1.0.2:{port}"), Finding::DestinationFailed);
        ledger.learn(HOP, ASKED, Finding::Nothing);
    }
    assert_eq!(ledger.suspects.entries.len(), MAX_SUSPICIONS);
    assert!(!ledger.is_suspect(HOP, ASKED) && ledger.is_suspect(HOP, "10.1.0.2:256"));
}
