//! Input that crashes whoever handles it: remembered by its fingerprint, set aside at the second crash, tried again after
//! growing delays, and forgiven once it is handled well.
//!
//! The books are pure: time and chance are arguments. They outlive the actors: a guard stands around the handling of an
//! input, and a panic that unwinds through it is written down.

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

/// Inputs remembered at a time.
/// Limit: inputs that crashed their handler and are remembered: 1024; past it: the oldest input is forgotten.
pub(crate) const MAX_INPUTS: usize = 1024;
/// Crashes after which an input is set aside.
/// Limit: crashes over one input: 2; past it: the input is quarantined for 30 s, doubled to 10 min.
const CRASHES_TO_QUARANTINE: u32 = 2;
/// A single crash is forgotten after so long.
/// Limit: memory of a single crash over an input: 10 min; past it: the crash is forgotten.
const CRASH_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Tells one input from another: what it is, which, and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Input<'a> {
    /// What it is, such as `peer`; the label of metrics.
    pub kind: &'static str,
    /// Which one.
    pub name: &'a str,
    /// A digest of its content: another content under the same name is another input.
    pub digest: u64,
}

/// Why an input is not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quarantined: crashed its handler {crashes} times; next try in {} s", .retry_in.as_secs())]
pub(crate) struct InQuarantine {
    /// Its crashes.
    pub crashes: u32,
    /// How long until it is tried again.
    pub retry_in: Duration,
}

/// An input that is set aside, for showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantined {
    /// What it is.
    pub kind: &'static str,
    /// Which one.
    pub name: Arc<str>,
    /// Its crashes.
    pub crashes: u32,
    /// How long until it is tried again; nothing if it may be at once.
    pub retry_in: Duration,
}

/// The books.
#[derive(Debug, Default)]
struct Ledger {
    entries: BTreeMap<(&'static str, Arc<str>), Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: u64,
    crashes: u32,
    last: Instant,
    /// Set aside until then.
    until: Option<Instant>,
}

/// The inputs of a process that crashed somebody. Clones share the books.
#[derive(Clone)]
pub(crate) struct Quarantine(Arc<Shared>);

struct Shared {
    ledger: Mutex<Ledger>,
    backoff: Backoff,
    /// Whether the books hold anything: nearly always not, and then nobody takes the lock.
    any: AtomicBool,
    changed: watch::Sender<u64>,
}

/// An input that may be handled. By itself it changes nothing.
#[derive(Clone, Copy)]
#[must_use = "a crash is attributed only inside it"]
pub(crate) struct AdmittedInput<'a> {
    quarantine: &'a Quarantine,
    input: Input<'a>,
}

/// Counts a crash when a panic drops it. Not to be held while other work may run: that may panic, too.
#[must_use = "a crash is attributed only while the guard lives"]
pub(crate) struct Guard<'a>(AdmittedInput<'a>);

/// A digest of `content`, stable while the process lives.
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

    /// It has crashed its handler: how long it is set aside now, if it is.
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

    /// The oldest single crash goes, or else what was set aside the longest ago.
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
    /// Set aside for 30 s, doubling to 10 min.
    fn default() -> Self {
        let (first, cap) = (Duration::from_secs(30), Duration::from_secs(600));
        Self::new(Backoff { first, cap, ..Backoff::default() })
    }
}

impl Quarantine {
    /// Empty books, with these delays.
    pub(crate) fn new(backoff: Backoff) -> Self {
        let (ledger, any) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Shared { ledger, backoff, any, changed: watch::Sender::new(0) }))
    }

    /// Begins to handle `input`.
    ///
    /// # Errors
    /// It is set aside.
    pub(crate) fn enter<'a>(&'a self, input: Input<'a>) -> Result<AdmittedInput<'a>, InQuarantine> {
        self.check(&input)?;
        Ok(AdmittedInput { quarantine: self, input })
    }

    /// Whether `input` may be handled now.
    ///
    /// # Errors
    /// It is set aside.
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

    /// Forgives an input that was handled well, or is gone.
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

    /// What is set aside now, by kind and name.
    pub(crate) fn list(&self) -> Vec<Quarantined> {
        self.0.ledger.lock().list(now())
    }

    /// Changes when something is set aside or forgiven. The number means nothing.
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
    /// A guard around what is done at once.
    pub(crate) fn guard(self) -> Guard<'a> {
        let guard = Guard(self);
        // Where a bug that this input brings out would strike.
        faults::trip(self.input.name);
        guard
    }

    /// Does `work` with the guard around each of its steps.
    pub(crate) async fn watch<F: Future>(self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let _guard = self.guard();
            work.as_mut().poll(cx)
        })
        .await
    }

    /// It was handled well: whatever it did before is forgiven.
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
