use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::{due::RETRY_FLAT_AFTER, *};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fake {
    from: SystemTime,
    until: SystemTime,
}

#[derive(Debug, PartialEq, Eq)]
struct Caller {
    number: u32,
    gone: bool,
}

impl Lifetime for Fake {
    fn not_before(&self) -> SystemTime {
        self.from
    }
    fn not_after(&self) -> SystemTime {
        self.until
    }
}

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        self.gone
    }
}

const HOUR: Duration = Duration::from_hours(1);

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn caller(number: u32) -> Caller {
    Caller { number, gone: false }
}

fn who(n: usize) -> Identity {
    Identity::new("td", "ns", &format!("sa{n}")).unwrap()
}

fn refused() -> IssueError {
    IssueError::PeerRefused { code: "Unauthenticated".into(), message: "no".into() }
}

/// A schedule, its clocks and its chance; collects what the authority is asked and what callers hear.
struct World {
    core: Schedule<Fake, Caller>,
    now: Now,
    rng: SmallRng,
    flying: HashMap<Identity, Ticket>,
    replies: Vec<(u32, Result<Fake, CertError>)>,
    published: HashMap<Identity, (Option<Fake>, Option<Arc<IssueError>>)>,
    started: Vec<Identity>,
    dropped: Vec<Identity>,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            core: Schedule::new(limits),
            now: Now { mono: Instant::now(), wall: SystemTime::UNIX_EPOCH + HOUR * 500_000 },
            rng: SmallRng::seed_from_u64(7),
            flying: HashMap::new(),
            replies: vec![],
            published: HashMap::new(),
            started: vec![],
            dropped: vec![],
        }
    }

    fn on(&mut self, event: Event<Fake, Caller>) {
        for effect in self.core.on(self.now, event, &mut self.rng) {
            match effect {
                Effect::Start { id, ticket } => {
                    assert!(self.flying.insert(id.clone(), ticket).is_none(), "two requests for {id}");
                    self.started.push(id);
                }
                Effect::Cancel { ticket } => self.flying.retain(|_, t| *t != ticket),
                Effect::Publish { id, cert, failure } => {
                    self.published.insert(id, (cert, failure));
                }
                Effect::Remove { id } => {
                    assert!(self.published.remove(&id).is_some(), "{id} was never published");
                }
                Effect::Reply { waiter, result } => self.replies.push((waiter.number, result)),
                Effect::Dropped { id } => self.dropped.push(id),
            }
        }
        assert!(self.flying.len() <= self.core.limits.in_flight, "{} in flight", self.flying.len());
        self.core.check();
    }

    fn fetch(&mut self, n: usize, number: u32) {
        self.on(Event::Fetch { id: who(n), waiter: caller(number) });
    }

    fn fresh(&self, life: Duration) -> Fake {
        Fake { from: self.now.wall, until: self.now.wall + life }
    }

    fn answer(&mut self, n: usize, result: Result<Fake, IssueError>) {
        let ticket = self.flying.remove(&who(n)).expect("nothing in flight");
        self.on(Event::Issued { id: who(n), ticket, result });
    }

    fn succeed(&mut self, n: usize, life: Duration) -> Fake {
        let cert = self.fresh(life);
        self.answer(n, Ok(cert.clone()));
        cert
    }

    /// Passes time the way the shell does: from wake to wake.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some(at) = self.core.next_wake(self.now).filter(|at| *at <= end) {
            self.forward(at.saturating_duration_since(self.now.mono));
            self.on(Event::Tick);
        }
        self.forward(end - self.now.mono);
    }

    fn forward(&mut self, time: Duration) {
        self.now = Now { mono: self.now.mono + time, wall: self.now.wall + time };
    }

    fn heard(&mut self) -> Vec<(u32, bool)> {
        self.replies.drain(..).map(|(n, r)| (n, r.is_ok())).collect()
    }
}

impl<C: Lifetime, W> Schedule<C, W> {
    /// Queue, timers, counters and entries tell the same story.
    fn check(&self) {
        let phases = |f: fn(&Phase) -> bool| self.entries.values().filter(|e| f(&e.phase)).count();
        assert_eq!(phases(|p| matches!(p, Phase::InFlight { .. })), self.in_flight);
        assert_eq!(phases(|p| matches!(p, Phase::Queued { .. })), self.queue.len());
        assert_eq!(phases(|p| matches!(p, Phase::Idle { .. })), self.timers.len());
        let warmups = self.queue.keys().filter(|(p, _)| *p == Priority::Warmup).count();
        assert_eq!(warmups, self.queued_warmups);
        for (id, entry) in &self.entries {
            match entry.phase {
                Phase::Queued { priority, turn } => assert_eq!(self.queue.get(&(priority, turn)), Some(id)),
                Phase::Idle { at, .. } => {
                    assert!(self.timers.contains(&(at, id.clone())));
                    assert!(entry.waiters.is_empty(), "{id} is idle and somebody waits");
                }
                Phase::InFlight { .. } => {}
            }
        }
    }
}

#[test]
fn callers_of_one_identity_share_one_request() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    w.fetch(0, 2);
    assert_eq!(w.started, [who(0)]);
    w.succeed(0, HOUR);
    assert_eq!(w.heard(), [(1, true), (2, true)]);
    w.fetch(0, 3);
    assert_eq!(w.heard(), [(3, true)], "served from the cache");
    assert_eq!(w.started.len(), 1);
}

#[test]
fn eight_in_flight_then_real_time_before_warmup_before_background_fifo_within() {
    let mut w = World::new(Limits::default());
    for n in 0..8 {
        w.on(Event::Prefetch { id: who(n) });
    }
    w.on(Event::Adopt { id: who(20), cert: None });
    w.published.insert(who(20), (None, None));
    for n in [21, 22] {
        w.on(Event::Prefetch { id: who(n) });
    }
    w.fetch(30, 1);
    w.fetch(31, 2);
    w.fetch(22, 3);
    assert_eq!(w.started.len(), 8);
    for n in 0..5 {
        w.succeed(n, HOUR);
    }
    assert_eq!(
        w.started[8..],
        [who(30), who(31), who(22), who(21), who(20)],
        "22 was raised, not pre-empting"
    );
}

#[test]
fn a_certificate_is_refreshed_at_half_its_life() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    w.succeed(0, HOUR * 24);
    w.pass(HOUR * 12 - secs(1));
    assert_eq!(w.started.len(), 1);
    w.pass(secs(1));
    assert_eq!(w.started.len(), 2);
    let second = w.succeed(0, HOUR * 24);
    assert_eq!(w.published[&who(0)].0, Some(second));
}

#[test]
fn a_back_dated_certificate_does_not_make_a_request_storm() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    for _ in 0..10 {
        let cert = Fake { from: w.now.wall - HOUR, until: w.now.wall + secs(60) };
        w.answer(0, Ok(cert));
        w.pass(secs(29));
        assert!(w.flying.is_empty());
        w.pass(secs(1));
        assert_eq!(w.flying.len(), 1, "half of what remained");
    }
    w.answer(0, Ok(Fake { from: w.now.wall, until: w.now.wall + Duration::from_millis(10) }));
    w.pass(Duration::from_millis(999));
    assert!(w.flying.is_empty());
}

#[test]
fn a_certificate_over_on_arrival_counts_as_a_failure() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    w.answer(0, Ok(Fake { from: w.now.wall - HOUR, until: w.now.wall - secs(5) }));
    let (_, result) = w.replies.pop().unwrap();
    assert!(result.unwrap_err().to_string().contains("ended 5 s ago"));
    assert!(w.flying.is_empty(), "and is retried with back-off");
}

#[test]
fn failures_double_from_a_second_to_a_cap_then_turn_flat() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    let began = w.now.mono;
    let mut last = w.now.mono;
    w.answer(0, Err(refused()));
    for failure in 1..30_u32 {
        while w.flying.is_empty() {
            let at = w.core.next_wake(w.now).unwrap();
            w.pass(at - w.now.mono);
        }
        let waited = w.now.mono - last;
        let nominal = secs(1 << (failure - 1).min(16)).min(secs(150));
        if last - began >= RETRY_FLAT_AFTER {
            assert_eq!(waited, secs(150));
        } else {
            assert!(
                waited >= nominal.mul_f64(0.8) && waited <= nominal.mul_f64(1.2),
                "{failure}: {waited:?}"
            );
            assert!(waited <= secs(150));
        }
        last = w.now.mono;
        w.answer(0, Err(refused()));
    }
    while w.flying.is_empty() {
        w.pass(secs(1));
    }
    w.succeed(0, secs(100));
    w.pass(secs(50));
    let failed_at = w.now.mono;
    w.answer(0, Err(refused()));
    while w.flying.is_empty() {
        let at = w.core.next_wake(w.now).unwrap();
        w.pass(at - w.now.mono);
    }
    assert!(w.now.mono - failed_at <= secs(2), "success resets the back-off");
}

#[test]
fn a_failure_without_a_certificate_is_told_to_those_waiting_and_those_who_come() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    w.fetch(0, 2);
    w.answer(0, Err(refused()));
    w.fetch(0, 3);
    assert_eq!(w.heard(), [(1, false), (2, false), (3, false)]);
    assert!(w.flying.is_empty(), "a caller does not cut the back-off short");
    w.pass(secs(2));
    assert_eq!(w.flying.len(), 1);
    w.fetch(0, 4);
    assert_eq!(w.heard(), [(4, false)], "only the answer clears the failure");
    w.succeed(0, HOUR);
    w.fetch(0, 5);
    assert_eq!(w.heard(), [(5, true)]);
}

#[test]
fn a_valid_certificate_is_kept_through_failures_and_tried_again_at_its_end() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    let cert = w.succeed(0, HOUR);
    w.pass(HOUR / 2);
    w.heard();
    while w.now.wall < cert.until {
        if w.flying.contains_key(&who(0)) {
            w.answer(0, Err(refused()));
        }
        w.fetch(0, 2);
        assert_eq!(w.heard(), [(2, true)]);
        assert_eq!(w.published[&who(0)].0.as_ref(), Some(&cert));
        let wake = w.core.next_wake(w.now).unwrap();
        w.pass(wake - w.now.mono);
    }
    assert_eq!(w.now.wall, cert.until, "the last attempt is made at the very end");
    assert_eq!(w.flying.len(), 1);
    w.fetch(0, 3);
    assert_eq!(w.heard(), [], "waits for that attempt");
    w.answer(0, Err(refused()));
    assert_eq!(w.heard(), [(3, false)]);
    w.fetch(0, 4);
    assert_eq!(w.heard(), [(4, false)]);
}

#[test]
fn the_clock_may_jump() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    w.succeed(0, HOUR * 4);
    w.now.wall += HOUR * 3;
    w.pass(CLOCK_LOOK_EVERY);
    assert_eq!(w.started.len(), 2, "a jump past half-life is noticed");
    w.succeed(0, HOUR * 4);
    w.heard();
    w.now.wall -= HOUR;
    w.fetch(0, 2);
    assert_eq!(w.heard(), [(2, true)], "a start in the future is not held against a certificate");
    w.pass(HOUR * 2);
    assert_eq!(w.started.len(), 3, "half-life in elapsed time counts as well");
    w.succeed(0, HOUR * 4);
    w.now.wall += HOUR * 10;
    w.fetch(0, 3);
    assert_eq!(w.started.len(), 4, "an end passed by a jump starts a request at once");
    w.now.wall -= HOUR * 10;
    w.answer(0, Err(refused()));
    assert_eq!(w.heard(), [(3, true)], "the old one is good again");
}

#[test]
fn retries_run_on_elapsed_time() {
    let mut w = World::new(Limits::default());
    w.fetch(0, 1);
    w.answer(0, Err(refused()));
    w.now.wall -= HOUR;
    w.pass(secs(2));
    assert_eq!(w.flying.len(), 1);
    w.answer(0, Err(refused()));
    w.now.wall += HOUR * 2;
    w.on(Event::Tick);
    assert!(w.flying.is_empty());
}

#[test]
fn forgetting_tells_waiters_and_discards_what_is_in_flight() {
    let mut w = World::new(Limits { in_flight: 1, ..Limits::default() });
    w.fetch(0, 1);
    w.fetch(1, 2);
    let stale = w.flying[&who(0)];
    w.on(Event::Forget { id: who(0) });
    assert_eq!(w.heard(), [(1, false)]);
    assert_eq!(w.flying.keys().collect::<Vec<_>>(), [&who(1)], "the slot is free at once");
    let late = w.fresh(HOUR);
    w.on(Event::Issued { id: who(0), ticket: stale, result: Ok(late) });
    assert!(!w.published.contains_key(&who(0)));
    w.on(Event::Forget { id: who(1) });
    w.on(Event::Forget { id: who(7) });
    assert_eq!(w.heard(), [(2, false)]);
    assert_eq!(w.core.next_wake(w.now), None);
    w.fetch(0, 3);
    let late = w.fresh(HOUR);
    w.on(Event::Issued { id: who(0), ticket: stale, result: Ok(late) });
    assert_eq!(w.heard(), [], "a late answer is not taken for the new request's");
}

#[test]
fn adopted_certificates_are_served_and_refreshed() {
    let mut w = World::new(Limits::default());
    let young = w.fresh(HOUR * 4);
    w.forward(HOUR);
    let old = Fake { from: w.now.wall - HOUR * 3, until: w.now.wall + HOUR };
    for (n, cert) in [(0, young), (1, old.clone())] {
        w.published.insert(who(n), (Some(cert.clone()), None));
        w.on(Event::Adopt { id: who(n), cert: Some(cert) });
    }
    w.on(Event::Adopt { id: who(2), cert: None });
    assert_eq!(w.started, [who(1), who(2)], "past half-life, or never issued: at once");
    w.fetch(1, 1);
    assert_eq!(w.heard(), [(1, true)]);
    w.answer(1, Err(refused()));
    assert_eq!(w.published[&who(1)].0, Some(old));
    w.pass(HOUR);
    assert!(w.started.contains(&who(0)));
}

#[test]
fn everything_is_bounded() {
    let mut w = World::new(Limits { in_flight: 1, identities: 4, waiters: 2, warmups: 2 });
    for n in 0..4 {
        w.on(Event::Prefetch { id: who(n) });
    }
    assert_eq!(w.dropped, [who(3)], "one in flight and two in the queue");
    w.fetch(3, 1);
    w.fetch(4, 2);
    let (number, result) = w.replies.pop().unwrap();
    assert_eq!(number, 2);
    assert!(result.unwrap_err().to_string().contains("this node holds 4 identities already"));
    w.fetch(0, 3);
    w.on(Event::Fetch { id: who(0), waiter: Caller { number: 4, gone: true } });
    w.fetch(0, 5);
    assert_eq!(w.heard(), [], "one that hung up makes room");
    w.fetch(0, 6);
    let (number, result) = w.replies.pop().unwrap();
    assert_eq!(number, 6);
    assert!(matches!(result, Err(CertError::TooManyWaiters { limit: 2, .. })), "{result:?}");
    w.succeed(0, HOUR);
    assert_eq!(w.heard(), [(3, true), (5, true)]);
}

#[derive(Clone, Debug)]
enum Step {
    Fetch(usize),
    Prefetch(usize),
    Forget(usize),
    Adopt(usize, Option<u64>),
    Answer(usize, Option<(u64, u64)>),
    Stale(usize),
    Pass(u64),
    Jump(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..14_usize;
    prop_oneof![
        4 => id.clone().prop_map(Step::Fetch),
        2 => id.clone().prop_map(Step::Prefetch),
        1 => id.clone().prop_map(Step::Forget),
        1 => (id.clone(), proptest::option::of(0..5_000_u64)).prop_map(|(n, c)| Step::Adopt(n, c)),
        6 => (id.clone(), proptest::option::of((0..5_000_u64, 0..5_000_u64))).prop_map(|(n, c)| Step::Answer(n, c)),
        1 => id.prop_map(Step::Stale),
        3 => (0..4_000_u64).prop_map(Step::Pass),
        1 => (-8_000..8_000_i64).prop_map(Step::Jump),
    ]
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_bounds_and_answers_everybody_once(steps in proptest::collection::vec(step(), 1..120)) {
        let mut w = World::new(Limits { in_flight: 3, identities: 10, waiters: 3, warmups: 2 });
        let mut asked = HashSet::new();
        for (at, step) in steps.into_iter().enumerate() {
            let number = u32::try_from(at).unwrap();
            match step {
                Step::Fetch(n) => {
                    asked.insert(number);
                    w.fetch(n, number);
                }
                Step::Prefetch(n) => w.on(Event::Prefetch { id: who(n) }),
                Step::Forget(n) => w.on(Event::Forget { id: who(n) }),
                Step::Adopt(n, life) => {
                    let cert = life.map(|l| w.fresh(secs(l)));
                    if !w.core.entries.contains_key(&who(n)) && w.core.entries.len() < 10 {
                        w.published.insert(who(n), (cert.clone(), None));
                    }
                    w.on(Event::Adopt { id: who(n), cert });
                }
                Step::Answer(n, life) if w.flying.contains_key(&who(n)) => {
                    let result = life.ok_or_else(refused).map(|(before, after)| {
                        Fake { from: w.now.wall - secs(before), until: w.now.wall + secs(after) }
                    });
                    w.answer(n, result);
                }
                Step::Answer(..) => {}
                Step::Stale(n) => {
                    let cert = w.fresh(HOUR);
                    w.on(Event::Issued { id: who(n), ticket: u64::MAX, result: Ok(cert) });
                }
                Step::Pass(s) => w.pass(secs(s)),
                Step::Jump(s) => {
                    let by = secs(s.unsigned_abs());
                    w.now.wall = if s < 0 { w.now.wall - by } else { w.now.wall + by };
                    w.on(Event::Tick);
                }
            }
            // Nobody gets a certificate that is over.
            for (_, result) in &w.replies {
                prop_assert!(result.as_ref().map_or(true, |c| c.until > w.now.wall || step_may_outlive(c, &w)));
            }
            prop_assert!(w.core.entries.is_empty() || w.core.next_wake(w.now).is_some());
            let known: HashSet<_> = w.core.entries.keys().cloned().collect();
            let shown: HashSet<_> = w.published.keys().cloned().collect();
            prop_assert_eq!(known, shown);
            for (number, _) in w.replies.drain(..) {
                prop_assert!(asked.remove(&number), "{} was answered twice", number);
            }
        }
        for n in 0..14 {
            w.on(Event::Forget { id: who(n) });
        }
        for (number, _) in w.replies.drain(..) {
            prop_assert!(asked.remove(&number), "{} was answered twice", number);
        }
        prop_assert!(asked.is_empty(), "never answered: {:?}", asked);
        prop_assert!(w.flying.is_empty() && w.core.timers.is_empty() && w.core.queue.is_empty());
    }
}

/// A reply is looked at after its step; during a pass of time a certificate may have ended since.
fn step_may_outlive(cert: &Fake, w: &World) -> bool {
    cert.until + secs(4_000) > w.now.wall
}
