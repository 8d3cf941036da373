//! The quarantine of inputs that crash their handlers. An input is identified by its digest and quarantined at the
//! second crash. The input is tried again after growing delays, and forgiven once it is handled well.
//!
//! The ledger is pure: time and chance are arguments. The ledger outlives the actors. A guard surrounds the handling
//! of an input, and the ledger notes a panic that unwinds through the guard.

use std::{
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    hash::{BuildHasher, Hash},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::watch;

use crate::supervisor::{Backoff, faults};

/// The number of inputs that the ledger remembers at a time.
/// Limit: inputs that crashed their handler and are remembered: 1024; past it: the oldest input is forgotten.
pub(crate) const MAX_INPUTS: usize = 1024;
/// The number of crashes after which an input is quarantined.
/// Limit: crashes over one input: 2; past it: the input is quarantined for 30 s, doubled to 10 min.
const CRASHES_TO_QUARANTINE: u32 = 2;
/// The time after which a single crash is forgotten.
/// Limit: memory of a single crash over an input: 10 min; past it: the crash is forgotten.
const CRASH_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The identity of an input: its kind, its name and a digest of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Input<'a> {
    /// The kind of the input, such as `peer`, which is also a label of metrics.
    pub kind: &'static str,
    /// The name of the input.
    pub name: &'a str,
    /// A digest of the content. Another content under the same name is another input.
    pub digest: u64,
}

/// The error of an input that is not handled because the input is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quarantined: crashed its handler {crashes} times; next try in {} s", .retry_in.as_secs())]
pub(crate) struct InQuarantine {
    /// The number of crashes over the input.
    pub crashes: u32,
    /// The time until the input may be tried again.
    pub retry_in: Duration,
}

/// A quarantined input, as the admin interface shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// The kind of the input.
    pub kind: &'static str,
    /// The name of the input.
    pub name: Arc<str>,
    /// The number of crashes over the input.
    pub crashes: u32,
    /// The time until the input may be tried again; zero if the input may be tried at once.
    pub retry_in: Duration,
}

/// The inputs that crashed their handlers, by kind and name.
#[derive(Debug, Default)]
struct Ledger {
    entries: BTreeMap<(&'static str, Arc<str>), Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: u64,
    crashes: u32,
    last: Instant,
    /// The end of the quarantine, if the input is quarantined.
    until: Option<Instant>,
}

/// The quarantine of a process. Clones share the ledger.
#[derive(Clone)]
pub(crate) struct Quarantine(Arc<Shared>);

struct Shared {
    ledger: Mutex<Ledger>,
    backoff: Backoff,
    /// Whether the ledger has entries. An empty ledger is the usual case, in which no caller takes the lock.
    any: AtomicBool,
    changed: watch::Sender<u64>,
}

/// An input that may be handled. The value by itself changes nothing.
#[derive(Clone, Copy)]
#[must_use = "a crash is attributed only inside it"]
pub(crate) struct AdmittedInput<'a> {
    quarantine: &'a Quarantine,
    input: Input<'a>,
}

/// A guard that counts a crash when a panic drops the guard. Do not hold a guard while other work may run: that work
/// may panic, too.
#[must_use = "a crash is attributed only while the guard lives"]
pub(crate) struct Guard<'a>(AdmittedInput<'a>);

/// A digest of `content`, which is stable while the process lives.
pub(crate) fn digest(content: &impl Hash) -> u64 {
    foldhash::fast::FixedState::default().hash_one(content)
}

// === impl Ledger ===

impl Ledger {
    /// Whether `input` may be handled.
    fn admit(&mut self, input: &Input<'_>, now: Instant) -> Result<(), InQuarantine> {
        let key = (input.kind, Arc::from(input.name));
        let Some(entry) = self.entries.get(&key) else { return Ok(()) };
        let stale =
            entry.until.is_none() && now.saturating_duration_since(entry.last) >= CRASH_FORGOTTEN_AFTER;
        if entry.digest != input.digest || stale {
            self.entries.remove(&key);
            return Ok(());
        }
        match entry.until {
            Some(until) if until > now => {
                Err(InQuarantine { crashes: entry.crashes, retry_in: until.saturating_duration_since(now) })
            }
            _ => Ok(()),
        }
    }

    /// Notes that `input` crashed its handler. Returns the time of the quarantine, if the input is quarantined now.
    fn crashed(
        &mut self,
        input: &Input<'_>,
        now: Instant,
        backoff: &Backoff,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        let key = (input.kind, Arc::from(input.name));
        if !self.entries.contains_key(&key) && self.entries.len() >= MAX_INPUTS {
            self.make_room();
        }
        let fresh = Entry { digest: input.digest, crashes: 0, last: now, until: None };
        let entry = self.entries.entry(key).or_insert(fresh);
        if entry.digest != input.digest {
            *entry = fresh;
        }
        entry.crashes = entry.crashes.saturating_add(1);
        entry.last = now;
        let delay = entry.crashes.checked_sub(CRASHES_TO_QUARANTINE).map(|before| backoff.delay(before, rng));
        entry.until = delay.map(|delay| now + delay);
        delay
    }

    /// Removes the oldest single crash, or else the quarantined input with the oldest crash.
    fn make_room(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| (entry.until.is_some(), entry.last));
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.entries.remove(&key);
        }
    }

    fn list(&self, now: Instant) -> Vec<Quarantined> {
        let aside = self.entries.iter().filter_map(|((kind, name), entry)| {
            let retry_in = entry.until?.saturating_duration_since(now);
            Some(Quarantined { kind, name: name.clone(), crashes: entry.crashes, retry_in })
        });
        aside.collect()
    }
}

// === impl Quarantine ===

impl Default for Quarantine {
    /// A quarantine that begins at 30 s and doubles up to 10 min.
    fn default() -> Self {
        let (first, cap) = (Duration::from_secs(30), Duration::from_secs(600));
        Self::new(Backoff { first, cap, ..Backoff::default() })
    }
}

impl Quarantine {
    /// Makes a quarantine with an empty ledger and these delays.
    pub(crate) fn new(backoff: Backoff) -> Self {
        let (ledger, any) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Shared { ledger, backoff, any, changed: watch::Sender::new(0) }))
    }

    /// Begins to handle `input`.
    ///
    /// # Errors
    /// The input is quarantined.
    pub(crate) fn enter<'a>(&'a self, input: Input<'a>) -> Result<AdmittedInput<'a>, InQuarantine> {
        self.check(&input)?;
        Ok(AdmittedInput { quarantine: self, input })
    }

    /// Whether `input` may be handled now.
    ///
    /// # Errors
    /// The input is quarantined.
    pub(crate) fn check(&self, input: &Input<'_>) -> Result<(), InQuarantine> {
        if !self.0.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut ledger = self.0.ledger.lock();
        let before = ledger.entries.len();
        let admitted = ledger.admit(input, now());
        if ledger.entries.len() != before {
            drop(ledger);
            self.notify();
        }
        admitted
    }

    /// Forgives an input that was handled well or no longer exists: the ledger forgets the input.
    pub(crate) fn forgive(&self, kind: &'static str, name: &str) {
        if !self.0.any.load(Ordering::Acquire) {
            return;
        }
        let entry = self.0.ledger.lock().entries.remove(&(kind, Arc::from(name)));
        if let Some(entry) = entry {
            if entry.until.is_some() {
                tracing::info!(target: "supervisor", kind, name, "released from quarantine");
            }
            self.notify();
        }
    }

    /// The quarantined inputs, sorted by kind and name.
    pub(crate) fn list(&self) -> Vec<Quarantined> {
        self.0.ledger.lock().list(now())
    }

    /// A number that changes when an input crashes its handler or is forgiven. The value of the number has no
    /// meaning.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn crashed(&self, input: &Input<'_>) {
        let mut rng = SmallRng::from_os_rng();
        let aside = self.0.ledger.lock().crashed(input, now(), &self.0.backoff, &mut rng);
        let (kind, name) = (input.kind, input.name);
        match aside {
            Some(retry_in) => {
                tracing::error!(target: "supervisor", kind, name, ?retry_in, "input quarantined: it crashed its handler again");
            }
            None => tracing::warn!(target: "supervisor", kind, name, "input has crashed its handler"),
        }
        self.notify();
    }

    fn notify(&self) {
        self.0.any.store(!self.0.ledger.lock().entries.is_empty(), Ordering::Release);
        self.0.changed.send_modify(|changes| *changes += 1);
    }
}

impl fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Quarantine").field(&self.0.ledger.lock().entries.len()).finish()
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

// === impl AdmittedInput ===

impl<'a> AdmittedInput<'a> {
    /// Makes a guard for work that does not wait.
    pub(crate) fn guard(self) -> Guard<'a> {
        let guard = Guard(self);
        // Injected faults of this input panic here, inside the guard.
        faults::trip(self.input.name);
        guard
    }

    /// Runs `work` with a guard around each poll.
    pub(crate) async fn watch<F: Future>(self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let _guard = self.guard();
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Notes that the input was handled well: former crashes are forgiven.
    pub(crate) fn done(self) {
        self.quarantine.forgive(self.input.kind, self.input.name);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.quarantine.crashed(&self.0.input);
        }
    }
}

#[cfg(test)]
mod tests;
