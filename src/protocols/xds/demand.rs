//! The names of addresses that are asked for one by one, and what is known of the answers
//! (docs/spec/controlplane.md 2.3 and 2.4).
//!
//! A question is open until a response names its name: as a resource, as an alias of one, or as removed. An answer
//! counts for a while. Only then the name is asked for again, and for that it is unsubscribed first: a control plane
//! does not answer a subscription that it has already.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// The maximum number of names that are asked for or whose answers are remembered.
/// Limit: names asked for on demand: 16,384; past it: the oldest answer is forgotten, and without answers the demand is
/// refused.
pub(super) const NAMES_MAX: usize = 16_384;
/// The maximum number of names in one request, which keeps the request below the sizes that servers take.
/// Limit: names in one request for addresses: 1024; past it: a further request.
pub(super) const ASKED_AT_ONCE_MAX: usize = 1024;
/// The longest name that may be demanded, in bytes.
/// Limit: a name asked for on demand: 1024 bytes; past it: the demand is refused.
const NAME_BYTES_MAX: usize = 1024;
/// How long an answer counts while the control plane can be asked. Without a stream it counts until there is one.
/// Limit: age of an answer about one address: 10 s; past it: the address is asked for again.
const ANSWER_COUNTS_FOR: Duration = Duration::from_secs(10);
/// The time after which an unanswered question is put again.
/// Limit: wait for an answer about one address until the question is repeated: 5 s; past it: the question is repeated.
const REPEATED_AFTER: Duration = Duration::from_secs(5);

/// The names and the state of their questions.
#[derive(Debug, Default)]
pub(super) struct Demands {
    names: HashMap<Arc<str>, Demand, foldhash::fast::RandomState>,
    /// The answered names, from the oldest answer to the newest.
    answered: BTreeMap<u64, Arc<str>>,
    /// The names to subscribe to.
    queue: Vec<Arc<str>>,
    /// The names to unsubscribe from before that.
    unsubscribe: Vec<Arc<str>>,
    serial: u64,
}

#[derive(Debug)]
enum Demand {
    Open {
        since: Instant,
        sent: bool,
        waiting: watch::Sender<bool>,
    },
    Answered {
        at: Instant,
        order: u64,
        /// Whether the present stream subscribes to the name.
        subscribed: bool,
    },
}

/// What a demand for a name leads to.
#[derive(Clone, Debug)]
pub(crate) enum Demanded {
    /// The control plane has answered already: what it knows of the name is in the tables.
    Answered,
    /// The control plane is being asked. The value becomes true with the answer.
    Asked(watch::Receiver<bool>),
}

/// Why a name was not demanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DemandError {
    /// The client does not work on demand.
    #[error("{0:?} is not known, and resources are not asked for on demand")]
    Off(String),
    /// Too many names are demanded already.
    #[error("{0:?} is not asked for: too many names are")]
    Full(String),
    /// No resource has such a name.
    #[error("a name of {0} bytes is not asked for")]
    Name(usize),
}

/// Names to unsubscribe from, and then names to subscribe to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) unsubscribe: Vec<String>,
    pub(super) subscribe: Vec<String>,
}

// === impl Demands ===

impl Demands {
    /// Demands `name`. `can_ask`: whether there is a stream; without one any answer counts.
    pub(super) fn demand(
        &mut self,
        name: &str,
        now: Instant,
        can_ask: bool,
    ) -> Result<Demanded, DemandError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(DemandError::Name(name.len()));
        }
        let age = |then: Instant| now.saturating_duration_since(then);
        match self.names.get_mut(name) {
            Some(Demand::Open { since, sent, waiting }) => {
                let answer = waiting.subscribe();
                if *sent && can_ask && age(*since) >= REPEATED_AFTER {
                    (*since, *sent) = (now, false);
                    self.unsubscribe.push(name.into());
                    self.queue.push(name.into());
                }
                return Ok(Demanded::Asked(answer));
            }
            Some(Demand::Answered { at, .. }) if !can_ask || age(*at) < ANSWER_COUNTS_FOR => {
                return Ok(Demanded::Answered);
            }
            Some(Demand::Answered { .. }) => self.forget(name),
            None => {}
        }
        if self.names.len() >= NAMES_MAX && !self.make_room() {
            return Err(DemandError::Full(name.to_owned()));
        }
        let (name, (waiting, answer)) = (Arc::<str>::from(name), watch::channel(false));
        self.names.insert(name.clone(), Demand::Open { since: now, sent: false, waiting });
        self.queue.push(name);
        Ok(Demanded::Asked(answer))
    }

    /// Whether there are names to subscribe to.
    pub(super) fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether `name` is asked for or remembered.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Takes up to [`ASKED_AT_ONCE_MAX`] names that are to be asked for on the present stream.
    pub(super) fn take(&mut self, now: Instant) -> Request {
        let unsubscribe = mem::take(&mut self.unsubscribe).into_iter().map(|name| name.to_string()).collect();
        let count = self.queue.len().min(ASKED_AT_ONCE_MAX);
        let mut subscribe = Vec::with_capacity(count);
        for name in self.queue.drain(..count) {
            if let Some(Demand::Open { since, sent, .. }) = self.names.get_mut(&name)
                && !*sent
            {
                (*since, *sent) = (now, true);
                subscribe.push(name.to_string());
            }
        }
        Request { unsubscribe, subscribe }
    }

    /// Begins a stream, which subscribes to nothing else. Returns the names of all open questions.
    pub(super) fn begin(&mut self, now: Instant) -> Vec<String> {
        self.queue.clear();
        self.unsubscribe.clear();
        let mut open = Vec::new();
        for (name, demand) in &mut self.names {
            match demand {
                Demand::Open { since, sent, .. } => {
                    (*since, *sent) = (now, true);
                    open.push(name.to_string());
                }
                Demand::Answered { subscribed, .. } => *subscribed = false,
            }
        }
        open
    }

    /// Notes that a response has named `name`, and wakes who waits for that.
    pub(super) fn answer(&mut self, name: &str, now: Instant) {
        let Some((name, _)) = self.names.get_key_value(name) else { return };
        let name = name.clone();
        self.serial += 1;
        let order = self.serial;
        let Some(demand) = self.names.get_mut(&name) else { return };
        let subscribed = match demand {
            Demand::Open { sent, waiting, .. } => {
                waiting.send_replace(true);
                *sent
            }
            Demand::Answered { order, subscribed, .. } => {
                self.answered.remove(order);
                *subscribed
            }
        };
        *demand = Demand::Answered { at: now, order, subscribed };
        self.answered.insert(order, name);
    }

    /// Forgets an answer.
    fn forget(&mut self, name: &str) {
        let Some((name, Demand::Answered { order, subscribed, .. })) = self.names.remove_entry(name) else {
            return;
        };
        self.answered.remove(&order);
        if subscribed {
            self.unsubscribe.push(name);
        }
    }

    /// Forgets the oldest answer, or all questions for whose answer nobody waits any more.
    fn make_room(&mut self) -> bool {
        if let Some((_, name)) = self.answered.pop_first() {
            self.forget(&name);
            return true;
        }
        let unsubscribe = &mut self.unsubscribe;
        self.names.retain(|name, demand| match demand {
            Demand::Open { sent, waiting, .. } if waiting.receiver_count() == 0 => {
                if *sent {
                    unsubscribe.push(name.clone());
                }
                false
            }
            _ => true,
        });
        let names = &self.names;
        self.queue.retain(|name| names.contains_key(name));
        self.names.len() < NAMES_MAX
    }
}

#[cfg(test)]
mod tests;
