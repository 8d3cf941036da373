//! What to run: children, and how they are supervised.

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
    address::Address,
    crash::take_panic,
    door::Reachable,
    dynamic::DynamicSpec,
    event::Observer,
    mailbox::Actor,
    plan::{Family, Rules},
    restart::{Backoff, Intensity},
    shell::{self, Blueprint},
    snapshot::Node,
    task::watch_panics,
};

/// After a kill, how long an actor may take to be gone. Only one that never awaits takes it all.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);

/// Which exits of a child ask for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every exit.
    Permanent,
    /// Every exit but a normal one.
    Transient,
    /// None; not even when a sibling's restart has stopped it.
    Temporary,
}

/// Which siblings are restarted with a failed child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// None.
    OneForOne,
    /// All.
    OneForAll,
    /// Those started after it, as they may build on it.
    RestForOne,
}

/// What a node of the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An actor that does the application's work.
    Worker,
    /// An actor that starts, watches and restarts others.
    Supervisor,
}

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
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) id: Arc<str>,
    pub(super) kind: Kind,
    pub(super) label: &'static str,
    pub(super) shown_as: Option<Arc<str>>,
    pub(super) restart: Restart,
    pub(super) stop_within: Duration,
    pub(super) start_timeout: Duration,
    pub(super) hung_after: Option<Duration>,
    start: Arc<dyn Fn(Place) -> Starting + Send + Sync>,
}

/// A supervisor with a fixed list of children.
#[derive(Debug, Clone)]
pub struct SupervisorSpec {
    id: Arc<str>,
    strategy: Strategy,
    intensity: Intensity,
    backoff: Backoff,
    stop_within: Option<Duration>,
    shown_as: Option<Arc<str>>,
    children: Vec<ChildSpec>,
}

/// Where a child is started.
pub(super) struct Place {
    pub(super) supervisor: ActorCell,
    pub(super) node: Arc<Node>,
    pub(super) observer: Observer,
}

type Starting = Pin<Box<dyn Future<Output = Result<ActorCell, StartError>> + Send>>;

// === impl Restart ===

impl Restart {
    /// Whether an exit asks for a restart.
    pub(super) fn applies(self, normal_exit: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => !normal_exit,
            Self::Temporary => false,
        }
    }
}

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
                let (actor, _) = Reachable::new(actor, place.node)
                    .start(arguments, Some(place.supervisor))
                    .await
                    .map_err(|error| StartError::spawning(&id, error))?;
                address.publish(actor.clone());
                Ok(actor.cell())
            })
        };
        Self {
            id,
            kind: Kind::Worker,
            label: "actor",
            shown_as: None,
            restart: Restart::Permanent,
            stop_within: Duration::from_secs(5),
            start_timeout: Duration::from_secs(5),
            hung_after: None,
            start: Arc::new(start),
        }
    }

    /// A supervisor as a child of another.
    pub(super) fn supervising(blueprint: Blueprint, label: &'static str, stop_within: Duration) -> Self {
        let id = blueprint.id.clone();
        let start_timeout =
            blueprint.children.iter().map(|c| c.start_timeout).fold(KILL_GRACE, Duration::saturating_add);
        let start = move |place: Place| -> Starting {
            let blueprint = blueprint.clone();
            Box::pin(async move {
                let Place { supervisor, node, observer } = place;
                let (actor, _) = shell::launch(blueprint, node, observer, Some(supervisor)).await?;
                Ok(actor.cell())
            })
        };
        Self {
            id,
            kind: Kind::Supervisor,
            label,
            shown_as: None,
            restart: Restart::Permanent,
            stop_within,
            start_timeout,
            hung_after: None,
            start: Arc::new(start),
        }
    }

    /// Which exits ask for a restart. Default: every one.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long a graceful stop may take before it is killed. Default: 5 s.
    pub fn stop_within(mut self, budget: Duration) -> Self {
        self.stop_within = budget;
        self
    }

    /// How long a start may take before it counts as failed. Default: 5 s. Of a supervisor, each child's start is
    /// bounded instead.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// After how long without an answer the tree's watchdog kills it. Default: never. It must be longer than any handler
    /// of the actor takes, awaits included.
    pub fn hung_after(mut self, silence: Duration) -> Self {
        self.hung_after = Some(silence);
        self
    }

    /// What it is, for snapshots: `xds`, `capture`.
    pub fn kind_label(mut self, label: &'static str) -> Self {
        self.label = label;
        self
    }

    /// Its name among its siblings.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The longest that its start and its stop take together, hung or not.
    pub(super) fn patience(&self) -> Duration {
        self.start_timeout.saturating_add(self.stop_within).saturating_add(2 * KILL_GRACE)
    }

    /// Starts it, bounded, panics caught and kept for the report.
    pub(super) async fn start(&self, place: Place) -> Result<ActorCell, StartError> {
        let node = place.node.clone();
        let mut attempt = pin!(watch_panics((self.start)(place)));
        let attempt = poll_fn(|cx| {
            // One of somebody else on this thread, which nobody has asked for.
            drop(take_panic());
            let polled = attempt.as_mut().poll(cx);
            if let Some(panic) = take_panic() {
                node.record.start_panicked(panic);
            }
            polled
        });
        let outcome = match self.kind {
            Kind::Supervisor => attempt.await,
            Kind::Worker => tokio::time::timeout(self.start_timeout, attempt)
                .await
                .map_err(|_| StartError::TimedOut { id: self.id.clone(), after: self.start_timeout })?,
        };
        outcome.unwrap_or_else(|panic| Err(StartError::failed(&self.id, panic)))
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl From<SupervisorSpec> for ChildSpec {
    fn from(spec: SupervisorSpec) -> Self {
        // Children stop one after the other, and one that was just starting is let finish first.
        let all = || spec.children.iter().map(ChildSpec::patience).fold(KILL_GRACE, Duration::saturating_add);
        let stop_within = spec.stop_within.unwrap_or_else(all);
        let shown_as = spec.shown_as.clone();
        Self { shown_as, ..Self::supervising(spec.blueprint(), "supervisor", stop_within) }
    }
}

// === impl SupervisorSpec ===

impl SupervisorSpec {
    /// A supervisor without children yet, with the default intensity and back-off.
    pub fn new(id: impl Into<Arc<str>>, strategy: Strategy) -> Self {
        Self {
            id: id.into(),
            strategy,
            intensity: Intensity::default(),
            backoff: Backoff::default(),
            stop_within: None,
            shown_as: None,
            children: Vec::new(),
        }
    }

    /// How many restarts of its children it tolerates before it gives up.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// How long it waits before a restart.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long it may take to stop with all its children before they are killed. Default: what its children may take
    /// one after the other.
    pub fn stop_within(mut self, budget: Duration) -> Self {
        self.stop_within = Some(budget);
        self
    }

    /// The name that people know it by, where its id says little to them. Snapshots, events and crash reports of the
    /// supervisor and of everything below it carry the name. Default: none.
    pub fn shown_as(mut self, name: impl Into<Arc<str>>) -> Self {
        self.shown_as = Some(name.into());
        self
    }

    /// Adds a child. They start in the order they are added and stop in reverse.
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    pub(super) fn blueprint(&self) -> Blueprint {
        let rules =
            Rules { family: Family::Static(self.strategy), intensity: self.intensity, backoff: self.backoff };
        Blueprint { id: self.id.clone(), rules, children: self.children.as_slice().into(), handle: None }
    }

    /// Adds a supervisor as the next child.
    pub fn supervisor(self, supervisor: SupervisorSpec) -> Self {
        self.child(supervisor.into())
    }

    /// Adds a supervisor of dynamic children as the next child.
    pub fn dynamic(self, dynamic: DynamicSpec) -> Self {
        self.child(dynamic.into())
    }
}

/// The first id that occurs twice.
pub(super) fn duplicate(children: &[ChildSpec]) -> Option<&Arc<str>> {
    let mut ids = HashSet::new();
    children.iter().map(ChildSpec::id).find(|id| !ids.insert(*id))
}
