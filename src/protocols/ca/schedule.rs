//! The schedule of requests to the authority, and of replies to callers (docs/spec/controlplane.md 3.3).
//!
//! ```text
//!            Fetch/Prefetch           slot free            answer
//!  (unknown) --------------> Queued ------------> InFlight ------> Idle, until refresh, retry or expiry
//!                               ^                                    |
//!                               +------------------------------------+
//! ```
//! The wall clock decides validity, and the monotonic clock measures waits. When the two clocks drift apart because the
//! wall clock was set, every wait is computed anew.

mod due;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rand::Rng;

use self::due::{Due, retry_delay, until_half_life};
pub(crate) use self::due::{Lifetime, Now};
use super::{CertError, IssueError};
use crate::protocols::identity::Identity;

/// The difference between the wall and monotonic clocks above which waits are computed anew.
/// Limit: difference between the wall clock and the monotonic clock: 1 s; past it: waits are measured anew.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// The longest time in which a jump of the clock stays unnoticed.
/// Limit: time in which a change of the wall clock stays unnoticed: 1 min; past it: waits are measured anew.
const CLOCK_LOOK_EVERY: Duration = Duration::from_mins(1);

/// A caller that waits for a certificate.
pub(crate) trait Waiter {
    /// Whether the caller no longer reads the reply.
    fn is_gone(&self) -> bool;
}

/// The urgency of a request; a smaller value goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// A connection waits for the certificate.
    RealTime,
    /// A connection may soon need the certificate.
    Warmup,
    /// No connection waits for the certificate.
    Background,
}

/// The limits of the schedule.
/// Limit: the schedule of certificates: 8 requests at a time, 10,000 identities, 4096 callers of one, 256 prefetches;
/// past it: requests are queued, identities and callers refused, prefetches dropped with a log line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The number of simultaneous requests to the authority.
    pub in_flight: usize,
    /// The number of known identities.
    pub identities: usize,
    /// The number of callers that wait for one identity.
    pub waiters: usize,
    /// The number of prefetches that wait for a slot.
    pub warmups: usize,
}

/// The number of a request, so that a late answer is not taken for the answer to another request.
pub(crate) type Ticket = u64;

/// An event that the schedule handles.
#[derive(Debug)]
pub(crate) enum Event<C, W> {
    /// A connection needs the certificate.
    Fetch {
        /// The identity.
        id: Identity,
        /// The caller that gets the reply.
        waiter: W,
    },
    /// A connection may soon need the certificate.
    Prefetch {
        /// The identity.
        id: Identity,
    },
    /// No workload on this node has the identity `id` any more.
    Forget {
        /// The identity.
        id: Identity,
    },
    /// A previous schedule knew `id` and left this certificate.
    Adopt {
        /// The identity.
        id: Identity,
        /// The certificate, if there was one.
        cert: Option<C>,
    },
    /// A request ended.
    Issued {
        /// The identity.
        id: Identity,
        /// The ticket of [`Effect::Start`].
        ticket: Ticket,
        /// The result of the request.
        result: Result<C, IssueError>,
    },
    /// The time of [`Schedule::next_wake`] has come.
    Tick,
}

/// An action that the caller carries out.
#[derive(Debug)]
pub(crate) enum Effect<C, W> {
    /// Send a request to the authority. [`Event::Issued`] must follow within a deadline.
    Start {
        /// The identity.
        id: Identity,
        /// The ticket to return in [`Event::Issued`].
        ticket: Ticket,
    },
    /// Abandon a request. A late answer to the request is ignored.
    Cancel {
        /// The ticket of [`Effect::Start`].
        ticket: Ticket,
    },
    /// Show readers the state of `id`.
    Publish {
        /// The identity.
        id: Identity,
        /// The newest certificate, which may be expired.
        cert: Option<C>,
        /// The last failure since the newest certificate.
        failure: Option<Arc<IssueError>>,
    },
    /// Remove `id` from the state that readers see.
    Remove {
        /// The identity.
        id: Identity,
    },
    /// Reply to a caller.
    Reply {
        /// The caller.
        waiter: W,
        /// The reply.
        result: Result<C, CertError>,
    },
    /// A prefetch was dropped because the queue or the table is full. A connection will request the certificate later.
    Dropped {
        /// The identity.
        id: Identity,
    },
}

/// The cache of identities and the queue of requests.
#[derive(Debug)]
pub(crate) struct Schedule<C, W> {
    entries: HashMap<Identity, Entry<C, W>, foldhash::fast::RandomState>,
    queue: BTreeMap<(Priority, u64), Identity>,
    timers: BTreeSet<(Instant, Identity)>,
    queued_warmups: usize,
    in_flight: usize,
    sequence: u64,
    clock: Option<Now>,
    limits: Limits,
}

#[derive(Debug)]
struct Entry<C, W> {
    cert: Option<C>,
    /// The last failure since the last success.
    failure: Option<Arc<IssueError>>,
    /// Whether the last attempt failed without a valid certificate to fall back on.
    unavailable: bool,
    failing_since: Option<Instant>,
    failures: u32,
    phase: Phase,
    waiters: Vec<W>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Queued { priority: Priority, turn: u64 },
    InFlight { ticket: Ticket },
    Idle { due: Due, at: Instant },
}

type Effects<C, W> = Vec<Effect<C, W>>;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: 8, identities: 10_000, waiters: 4_096, warmups: 256 }
    }
}

// === impl Entry ===

impl<C: Lifetime, W> Entry<C, W> {
    fn new(cert: Option<C>, phase: Phase) -> Self {
        let waiters = Vec::new();
        Self { cert, failure: None, unavailable: false, failing_since: None, failures: 0, phase, waiters }
    }

    /// The certificate, unless the certificate is expired.
    fn valid(&self, wall: SystemTime) -> Option<&C> {
        self.cert.as_ref().filter(|c| c.not_after() > wall)
    }

    /// Notes the result of a request, and returns when the next request is due.
    fn settle(&mut self, now: Now, result: Result<C, IssueError>, rng: &mut impl Rng) -> Due {
        let result = result.and_then(|cert| match now.wall.duration_since(cert.not_after()) {
            Ok(ago) => Err(IssueError::PeerExpired { ago }),
            Err(_) => Ok(cert),
        });
        match result {
            Ok(cert) => {
                let due = Due::refresh(&cert, now);
                let waiters = std::mem::take(&mut self.waiters);
                *self = Self { waiters, ..Self::new(Some(cert), self.phase) };
                due
            }
            Err(error) => {
                let since = *self.failing_since.get_or_insert(now.mono);
                self.failures = self.failures.saturating_add(1);
                self.failure = Some(Arc::new(error));
                let end = self.valid(now.wall).map(Lifetime::not_after);
                self.unavailable = end.is_none();
                let delay = retry_delay(self.failures, now.mono.saturating_duration_since(since), rng);
                Due { mono: now.mono.checked_add(delay).unwrap_or(now.mono), wall: end }
            }
        }
    }

    fn publication(&self, id: &Identity) -> Effect<C, W> {
        Effect::Publish { id: id.clone(), cert: self.cert.clone(), failure: self.failure.clone() }
    }

    fn answer(&mut self, result: &Result<C, CertError>, effects: &mut Effects<C, W>) {
        let waiters = std::mem::take(&mut self.waiters);
        effects.extend(waiters.into_iter().map(|waiter| Effect::Reply { waiter, result: result.clone() }));
    }
}

// === impl Schedule ===

impl<C: Lifetime, W: Waiter> Schedule<C, W> {
    /// Makes a schedule without identities.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            entries: HashMap::default(),
            queue: BTreeMap::new(),
            timers: BTreeSet::new(),
            queued_warmups: 0,
            in_flight: 0,
            sequence: 0,
            clock: None,
            limits,
        }
    }

    /// Handles `event` and returns the effects, to be carried out in order.
    pub(crate) fn on(&mut self, now: Now, event: Event<C, W>, rng: &mut impl Rng) -> Vec<Effect<C, W>> {
        let mut effects = Vec::new();
        self.follow_clock(now);
        match event {
            Event::Fetch { id, waiter } => self.fetch(now, id, waiter, &mut effects),
            Event::Prefetch { id } => self.prefetch(now, id, &mut effects),
            Event::Forget { id } => self.forget(&id, &mut effects),
            Event::Adopt { id, cert } => self.adopt(now, id, cert),
            Event::Issued { id, ticket, result } => {
                if let Some(entry) = self.end_flight(&id, ticket) {
                    let due = entry.settle(now, result, rng);
                    self.rest(now, &id, due, &mut effects);
                }
            }
            Event::Tick => {}
        }
        self.wake_due(now);
        self.start(&mut effects);
        effects
    }

    /// The latest moment for [`Event::Tick`]. The result is `None` while no identity is known.
    pub(crate) fn next_wake(&self, now: Now) -> Option<Instant> {
        if self.entries.is_empty() {
            return None;
        }
        let look = now.mono.checked_add(CLOCK_LOOK_EVERY)?;
        Some(self.timers.first().map_or(look, |(at, _)| look.min(*at)))
    }

    fn fetch(&mut self, now: Now, id: Identity, waiter: W, effects: &mut Effects<C, W>) {
        let limits = self.limits;
        let Some(entry) = self.entries.get_mut(&id) else {
            if self.entries.len() >= limits.identities {
                let result = Err(CertError::TooManyIdentities { identity: id, limit: limits.identities });
                effects.push(Effect::Reply { waiter, result });
                return;
            }
            let mut entry = self.queued(&id, None, Priority::RealTime);
            entry.waiters.push(waiter);
            effects.push(entry.publication(&id));
            self.entries.insert(id, entry);
            return;
        };
        if let Some(cert) = entry.valid(now.wall) {
            effects.push(Effect::Reply { waiter, result: Ok(cert.clone()) });
            return;
        }
        if let Some(reason) = entry.failure.clone().filter(|_| entry.unavailable) {
            let result = Err(CertError::Unavailable { identity: id.clone(), reason });
            effects.push(Effect::Reply { waiter, result });
            // The backoff still applies; only a retry that is already due becomes urgent.
            if matches!(entry.phase, Phase::Queued { .. }) {
                self.raise(&id, Priority::RealTime);
            }
            return;
        }
        if entry.waiters.len() >= limits.waiters {
            entry.waiters.retain(|w| !w.is_gone());
        }
        if entry.waiters.len() >= limits.waiters {
            let result = Err(CertError::TooManyWaiters { identity: id, limit: limits.waiters });
            effects.push(Effect::Reply { waiter, result });
            return;
        }
        entry.waiters.push(waiter);
        self.raise(&id, Priority::RealTime);
    }

    fn prefetch(&mut self, now: Now, id: Identity, effects: &mut Effects<C, W>) {
        let room = self.queued_warmups < self.limits.warmups;
        match self.entries.get(&id) {
            Some(entry) => {
                let idle = matches!(entry.phase, Phase::Idle { .. });
                if room && !idle && entry.valid(now.wall).is_none() {
                    self.raise(&id, Priority::Warmup);
                }
            }
            None if room && self.entries.len() < self.limits.identities => {
                let entry = self.queued(&id, None, Priority::Warmup);
                effects.push(entry.publication(&id));
                self.entries.insert(id, entry);
            }
            None => effects.push(Effect::Dropped { id }),
        }
    }

    fn forget(&mut self, id: &Identity, effects: &mut Effects<C, W>) {
        let Some(mut entry) = self.entries.remove(id) else { return };
        if let Phase::InFlight { ticket } = entry.phase {
            self.in_flight = self.in_flight.saturating_sub(1);
            effects.push(Effect::Cancel { ticket });
        }
        self.leave(id, entry.phase);
        effects.push(Effect::Remove { id: id.clone() });
        entry.answer(&Err(CertError::Forgotten { identity: id.clone() }), effects);
    }

    fn adopt(&mut self, now: Now, id: Identity, cert: Option<C>) {
        if self.entries.contains_key(&id) || self.entries.len() >= self.limits.identities {
            return;
        }
        let waits = cert.as_ref().and_then(|c| until_half_life(c, now.wall));
        let entry = match waits {
            Some(wait) => {
                let due = Due::after(wait, now);
                let at = due.at(now);
                self.timers.insert((at, id.clone()));
                Entry::new(cert, Phase::Idle { due, at })
            }
            None => self.queued(&id, cert, Priority::Background),
        };
        self.entries.insert(id, entry);
    }

    /// Frees the slot of a request. The result is `None` if the request was cancelled meanwhile.
    fn end_flight(&mut self, id: &Identity, ticket: Ticket) -> Option<&mut Entry<C, W>> {
        let entry = self.entries.get_mut(id)?;
        let ours = matches!(entry.phase, Phase::InFlight { ticket: t } if t == ticket);
        ours.then(|| {
            self.in_flight = self.in_flight.saturating_sub(1);
            entry
        })
    }

    /// Publishes the result of a request, replies to the callers, and lets `id` rest until `due`.
    fn rest(&mut self, now: Now, id: &Identity, due: Due, effects: &mut Effects<C, W>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        effects.push(entry.publication(id));
        let answer = match (entry.valid(now.wall), entry.failure.clone()) {
            (Some(cert), _) => Some(Ok(cert.clone())),
            (None, Some(reason)) => Some(Err(CertError::Unavailable { identity: id.clone(), reason })),
            (None, None) => None,
        };
        if let Some(answer) = answer {
            entry.answer(&answer, effects);
        }
        let at = due.at(now);
        entry.phase = Phase::Idle { due, at };
        self.timers.insert((at, id.clone()));
    }

    /// Makes an entry that waits for a slot.
    fn queued(&mut self, id: &Identity, cert: Option<C>, priority: Priority) -> Entry<C, W> {
        let turn = self.enqueue(id, priority);
        Entry::new(cert, Phase::Queued { priority, turn })
    }

    fn enqueue(&mut self, id: &Identity, priority: Priority) -> u64 {
        self.sequence += 1;
        self.queue.insert((priority, self.sequence), id.clone());
        self.queued_warmups += usize::from(priority == Priority::Warmup);
        self.sequence
    }

    /// Removes `id` from the queue or the timers.
    fn leave(&mut self, id: &Identity, phase: Phase) {
        match phase {
            Phase::Queued { priority, turn } => {
                self.queue.remove(&(priority, turn));
                self.queued_warmups -= usize::from(priority == Priority::Warmup);
            }
            Phase::Idle { at, .. } => {
                self.timers.remove(&(at, id.clone()));
            }
            Phase::InFlight { .. } => {}
        }
    }

    /// Queues an idle `id`, or raises the priority of a queued `id`. A request in flight stays as it is.
    fn raise(&mut self, id: &Identity, to: Priority) {
        let Some(phase) = self.entries.get(id).map(|e| e.phase) else { return };
        match phase {
            Phase::InFlight { .. } => return,
            Phase::Queued { priority, .. } if priority <= to => return,
            Phase::Queued { .. } | Phase::Idle { .. } => self.leave(id, phase),
        }
        let turn = self.enqueue(id, to);
        if let Some(entry) = self.entries.get_mut(id) {
            entry.phase = Phase::Queued { priority: to, turn };
        }
    }

    fn wake_due(&mut self, now: Now) {
        while let Some((at, id)) = self.timers.first().cloned() {
            if at > now.mono {
                return;
            }
            self.raise(&id, Priority::Background);
        }
    }

    fn start(&mut self, effects: &mut Effects<C, W>) {
        while self.in_flight < self.limits.in_flight {
            let Some(((priority, _), id)) = self.queue.pop_first() else { return };
            self.queued_warmups -= usize::from(priority == Priority::Warmup);
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            self.sequence += 1;
            let ticket = self.sequence;
            entry.phase = Phase::InFlight { ticket };
            self.in_flight += 1;
            effects.push(Effect::Start { id, ticket });
        }
    }

    /// Computes every wait anew if the wall clock was set.
    fn follow_clock(&mut self, now: Now) {
        let Some(before) = self.clock else {
            self.clock = Some(now);
            return;
        };
        let passed = now.mono.saturating_duration_since(before.mono);
        let expected = before.wall.checked_add(passed).unwrap_or(now.wall);
        let off = now.wall.duration_since(expected).unwrap_or_else(|e| e.duration());
        if off <= CLOCK_SLACK {
            return;
        }
        self.clock = Some(now);
        self.timers.clear();
        for (id, entry) in &mut self.entries {
            if let Phase::Idle { due, at } = &mut entry.phase {
                *at = due.at(now);
                self.timers.insert((*at, id.clone()));
            }
        }
    }
}
