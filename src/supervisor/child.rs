//! A child of a supervisor as a value: how to start it, when to restart it, how long it may take.

use std::{
    collections::HashSet,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use ractor::{ActorCell, SpawnErr};

use super::{
    actor::Actor,
    actor_ref::Incarnation,
    address::Address,
    diagnostics::{NodeKind, take_panic},
    event::Observer,
    node::{Node, Profile},
    restart::Restart,
    supervised,
    task::watch_panics,
};

/// Why a child or a tree did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The start failed or panicked.
    #[error("{id} did not start: {reason}")]
    Failed {
        /// The child.
        id: Arc<str>,
        /// What it said.
        reason: String,
    },
    /// The start took too long and was given up.
    #[error("{id} did not start within {after:?}")]
    TimedOut {
        /// The child.
        id: Arc<str>,
        /// Its `start_timeout`.
        after: Duration,
    },
    /// A sibling has this id. (A dynamic child keeps its id until it has stopped.)
    #[error("there is a {id} already")]
    Duplicate {
        /// The id.
        id: Arc<str>,
    },
    /// The supervisor that should start it is down, stopping, or overloaded.
    #[error("{id} did not start: its supervisor is not available")]
    Unavailable {
        /// The child.
        id: Arc<str>,
    },
}

/// A child: how to start it, when to restart it, how long it may take. Cheap to clone.
/// Limit: start and stop of a child: 5 s each unless the child says otherwise; past it: the start failed, and a child
/// that does not stop is killed.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) profile: Profile,
    pub(super) restart: Restart,
    start: Arc<dyn Fn(Place) -> Starting + Send + Sync>,
}

/// Where a child is started.
pub(super) struct Place {
    pub(super) supervisor: ActorCell,
    pub(super) node: Arc<Node>,
    pub(super) observer: Observer,
}

/// A start under way.
pub(super) type Starting = Pin<Box<dyn Future<Output = Result<Arc<dyn Incarnation>, StartError>> + Send>>;

// === impl StartError ===

impl StartError {
    pub(super) fn failed(id: &Arc<str>, reason: impl fmt::Display) -> Self {
        Self::Failed { id: id.clone(), reason: reason.to_string() }
    }

    pub(super) fn spawning(id: &Arc<str>, error: SpawnErr) -> Self {
        match error {
            SpawnErr::StartupFailed(reason) => Self::failed(id, reason),
            other => Self::failed(id, other),
        }
    }

    /// Whether it is the start of the child `id` itself that failed, rather than of one below it.
    pub(super) fn is_of(&self, id: &str) -> bool {
        match self {
            Self::Failed { id: of, .. } | Self::TimedOut { id: of, .. } => **of == *id,
            Self::Duplicate { .. } | Self::Unavailable { .. } => false,
        }
    }
}

// === impl ChildSpec ===

impl ChildSpec {
    /// A worker. `make` runs at every start and gives the actor and its arguments; after a successful start the actor
    /// is published at `address`.
    ///
    /// `pre_start` should take local things only (bind, open) and never wait for a remote.
    pub fn actor<A: Actor>(
        id: impl Into<Arc<str>>,
        address: &Address<A::Msg>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        let id = id.into();
        let (of, address, make) = (id.clone(), address.clone(), Arc::new(make));
        let start = move |place: Place| -> Starting {
            let (id, address, make) = (of.clone(), address.clone(), make.clone());
            Box::pin(async move {
                let (actor, arguments) = make();
                let (actor, _) = supervised::start(actor, arguments, place.node, Some(place.supervisor))
                    .await
                    .map_err(|error| StartError::spawning(&id, error))?;
                address.publish(actor.clone());
                Ok(Arc::new(actor) as Arc<dyn Incarnation>)
            })
        };
        let profile = Profile {
            id,
            kind: NodeKind::Worker,
            label: "actor",
            shown_as: None,
            start_timeout: Duration::from_secs(5),
            stop_within: Duration::from_secs(5),
            hung_after: None,
        };
        Self::new(profile, start)
    }

    /// A child that `start` starts.
    pub(super) fn new(profile: Profile, start: impl Fn(Place) -> Starting + Send + Sync + 'static) -> Self {
        Self { profile, restart: Restart::Permanent, start: Arc::new(start) }
    }

    /// The name that people know it by.
    pub(super) fn shown_as(mut self, name: Option<Arc<str>>) -> Self {
        self.profile.shown_as = name;
        self
    }

    /// Which exits ask for a restart. Default: every one.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a graceful stop may take before it is killed. Default: 5 s.
    pub fn stop_within(mut self, budget: Duration) -> Self {
        self.profile.stop_within = budget;
        self
    }

    /// How long a start may take before it counts as failed. Default: 5 s. The start of a supervisor has no bound of its
    /// own, because the starts of its children have.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.profile.start_timeout = timeout;
        self
    }

    /// How long a handler may run, awaits included, before the tree's watchdog kills the actor. Default: for ever. The
    /// watchdog adds up to a quarter of a second.
    pub fn hung_after(mut self, limit: Duration) -> Self {
        self.profile.hung_after = Some(limit);
        self
    }

    /// What it is, for snapshots: `xds`, `capture`.
    pub fn kind_label(mut self, label: &'static str) -> Self {
        self.profile.label = label;
        self
    }

    /// Its name among its siblings.
    pub fn id(&self) -> &Arc<str> {
        &self.profile.id
    }

    /// Starts it, within its time. A panic is caught, and kept for the report.
    pub(super) async fn start(&self, place: Place) -> Result<Arc<dyn Incarnation>, StartError> {
        let node = place.node.clone();
        let mut attempt = pin!(watch_panics((self.start)(place)));
        let attempt = poll_fn(|cx| {
            // An earlier panic on this thread, which nothing has reported.
            drop(take_panic());
            let polled = attempt.as_mut().poll(cx);
            if let Some(panic) = take_panic() {
                node.record.start_panicked(panic);
            }
            polled
        });
        let outcome = match self.profile.kind {
            NodeKind::Supervisor => attempt.await,
            NodeKind::Worker => {
                tokio::time::timeout(self.profile.start_timeout, attempt).await.map_err(|_| {
                    StartError::TimedOut { id: self.profile.id.clone(), after: self.profile.start_timeout }
                })?
            }
        };
        outcome.unwrap_or_else(|panic| Err(StartError::failed(&self.profile.id, panic)))
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("id", &self.profile.id)
            .field("kind", &self.profile.kind)
            .finish_non_exhaustive()
    }
}

/// The first id that occurs twice.
pub(super) fn duplicate(children: &[ChildSpec]) -> Option<&Arc<str>> {
    let mut ids = HashSet::new();
    children.iter().map(ChildSpec::id).find(|id| !ids.insert(*id))
}
