//! The names and versions of the resources that the tables hold, as announced to the control plane.
//!
//! Two invariants hold at any moment, even when the sink is stopped while it applies a response. Every name in the
//! tables is announced; otherwise the control plane would never send its removal. A name is announced with a version
//! only if exactly that version is held; otherwise the control plane would never send a change.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    demand::{DemandError, Demanded, Demands, Request},
    resource::ResourceType,
    sink::Rejected,
};
use crate::protocols::pb::ads::Resource;

type Names = HashMap<Arc<str>, Holding, foldhash::fast::RandomState>;

/// The state that all starts of the client share, because the tables outlive the client. A clone shares the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct XdsState(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    books: Mutex<[Book; 2]>,
    demands: Mutex<Demands>,
    demanded: Notify,
}

#[derive(Debug, Default)]
struct Book {
    names: Names,
    /// Whether a response was applied.
    answered: bool,
    /// The size in bytes of an announcement that was too large for the server.
    too_big_bytes: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holding {
    /// The resource may be held at any version, because an interrupted push may have changed it.
    Doubt,
    /// The resource is held at this version.
    At(Arc<str>),
}

/// A response that is being applied, with the entries that its outcome will change.
#[derive(Debug)]
pub(super) struct Push {
    kind: ResourceType,
    entries: Vec<Entry>,
    removed: Vec<Arc<str>>,
    /// The demanded names that the response answers.
    answers: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    version: Arc<str>,
    before: Option<Holding>,
}

// === impl XdsState ===

impl XdsState {
    /// Makes a state without held resources and without responses.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The number of names of `kind` that would be announced.
    #[cfg(test)]
    pub(super) fn len(&self, kind: ResourceType) -> usize {
        self.with(kind, |book| book.names.len())
    }

    /// Whether every type that is not on demand has had a response that was applied (docs/spec/controlplane.md 2.6). A
    /// rejected resource costs itself only. The value never becomes false again.
    pub(crate) fn is_synced(&self, on_demand: bool) -> bool {
        ResourceType::ALL
            .into_iter()
            .all(|kind| is_on_demand(kind, on_demand) || self.with(kind, |book| book.answered))
    }

    /// Demands the address `name`. `can_ask`: whether there is a stream; without one any earlier answer counts.
    pub(crate) fn demand(&self, name: &str, now: Instant, can_ask: bool) -> Result<Demanded, DemandError> {
        let mut demands = self.0.demands.lock();
        let demanded = demands.demand(name, now, can_ask)?;
        let queued = demands.is_queued();
        drop(demands);
        if queued {
            self.0.demanded.notify_one();
        }
        Ok(demanded)
    }

    /// Waits until a name may have been queued.
    pub(crate) async fn demanded(&self) {
        self.0.demanded.notified().await;
    }

    /// Takes the queued names. More names may be queued afterwards; then [`Self::demanded`] returns at once.
    pub(super) fn take_demands(&self, now: Instant) -> Request {
        let mut demands = self.0.demands.lock();
        let mut request = demands.take(now);
        if demands.is_queued() {
            self.0.demanded.notify_one();
        }
        drop(demands);
        // The name of a held resource stays subscribed, unless it is asked for once more.
        self.with(ResourceType::Address, |book| {
            let asked = &request.subscribe;
            request
                .unsubscribe
                .retain(|name| asked.contains(name) || !book.names.contains_key(name.as_str()));
        });
        request
    }

    /// The names of the open questions, which a new stream at `now` asks for.
    pub(super) fn open_demands(&self, now: Instant) -> Vec<String> {
        self.0.demands.lock().begin(now)
    }

    /// The names and versions to announce on a new stream.
    pub(super) fn versions(&self, kind: ResourceType) -> HashMap<String, String> {
        self.with(kind, |book| {
            let version = |holding: &Holding| match holding {
                Holding::At(version) => version.to_string(),
                Holding::Doubt => String::new(),
            };
            book.names.iter().map(|(name, holding)| (name.to_string(), version(holding))).collect()
        })
    }

    /// Whether an announcement of this size has failed before.
    pub(super) fn is_too_big(&self, kind: ResourceType, bytes: usize) -> bool {
        self.with(kind, |book| book.too_big_bytes.is_some_and(|limit| bytes >= limit))
    }

    /// An announcement of this size has failed.
    pub(super) fn was_too_big(&self, kind: ResourceType, bytes: usize) {
        self.with(kind, |book| book.too_big_bytes = Some(bytes));
    }

    /// All names of `kind` that may be held and are not among `resources`.
    pub(super) fn others(&self, kind: ResourceType, resources: &[Resource]) -> Vec<String> {
        let named: HashSet<&str, foldhash::fast::RandomState> =
            resources.iter().map(|r| r.name.as_str()).collect();
        self.with(kind, |book| {
            let other = book.names.keys().filter(|name| !named.contains(&***name));
            other.map(|name| name.to_string()).collect()
        })
    }

    /// Prepares for a response: marks all its names as doubtful, and takes the versions out of `resources`.
    pub(super) fn begin(&self, kind: ResourceType, resources: &mut [Resource], removed: &[String]) -> Push {
        let answers = self.answers(kind, resources, removed);
        self.with(kind, |book| {
            let mut enter = |resource: &mut Resource| {
                let version = Arc::from(mem::take(&mut resource.version));
                let name = match book.names.get_key_value(resource.name.as_str()) {
                    Some((known, _)) => Arc::clone(known),
                    None => Arc::from(resource.name.as_str()),
                };
                let before = book.names.insert(Arc::clone(&name), Holding::Doubt);
                Entry { name, version, before }
            };
            let entries = resources.iter_mut().map(&mut enter).collect();
            let mut doubt = |name: &String| {
                let (known, _) = book.names.get_key_value(name.as_str())?;
                let known = Arc::clone(known);
                book.names.insert(Arc::clone(&known), Holding::Doubt);
                Some(known)
            };
            let removed = removed.iter().filter_map(&mut doubt).collect();
            Push { kind, entries, removed, answers }
        })
    }

    /// The demanded names among the names, aliases and removals of a response.
    fn answers(&self, kind: ResourceType, resources: &[Resource], removed: &[String]) -> Vec<String> {
        if kind != ResourceType::Address {
            return Vec::new();
        }
        let demands = self.0.demands.lock();
        let named = resources.iter().flat_map(|resource| resource.aliases.iter().chain([&resource.name]));
        named.chain(removed).filter(|name| demands.knows(name)).cloned().collect()
    }

    /// Notes that all of a response except `rejected` was applied at `now`, and wakes who has demanded its names.
    pub(super) fn finish(&self, mut push: Push, rejected: &[Rejected], now: Instant) {
        let (kind, answers) = (push.kind, mem::take(&mut push.answers));
        self.settle(push, rejected);
        self.with(kind, |book| book.answered = true);
        let mut demands = self.0.demands.lock();
        for name in answers {
            demands.answer(&name, now);
        }
    }

    /// Notes that all resources of `push` except `rejected` were applied, without counting `push` as a response.
    pub(super) fn settle(&self, push: Push, rejected: &[Rejected]) {
        let rejected: HashMap<&str, bool, foldhash::fast::RandomState> =
            rejected.iter().map(|r| (r.name.as_str(), r.applied)).collect();
        let brought: HashSet<Arc<str>, foldhash::fast::RandomState> =
            push.entries.iter().map(|entry| entry.name.clone()).collect();
        self.with(push.kind, |book| {
            for Entry { name, version, before } in push.entries {
                // If a name came twice and was rejected, the name stays doubtful, because its second `before` is doubt.
                let now = match rejected.get(&*name) {
                    None => Some(Holding::At(version)),
                    // The control plane counts the version as refused, and sends the resource again on a new stream.
                    Some(true) => Some(Holding::Doubt),
                    Some(false) => before,
                };
                match now {
                    Some(holding) => _ = book.names.insert(name, holding),
                    None => _ = book.names.remove(&name),
                }
            }
            for name in push.removed {
                // What a response brings and removes stays. If it was refused, the tables may hold it or not.
                if !brought.contains(&name) {
                    book.names.remove(&name);
                } else if rejected.contains_key(&*name) {
                    book.names.insert(name, Holding::Doubt);
                }
            }
        });
    }

    fn with<T>(&self, kind: ResourceType, f: impl FnOnce(&mut Book) -> T) -> T {
        let mut books = self.0.books.lock();
        let [address, authorization] = &mut *books;
        f(match kind {
            ResourceType::Address => address,
            ResourceType::Authorization => authorization,
        })
    }
}

// === impl Push ===

impl Push {
    /// The type of the push's resources.
    pub(super) fn kind(&self) -> ResourceType {
        self.kind
    }
}

/// Whether resources of `kind` are requested by name. Policies are never requested by name.
pub(super) fn is_on_demand(kind: ResourceType, on_demand: bool) -> bool {
    on_demand && kind == ResourceType::Address
}
