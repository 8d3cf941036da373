//! The handle of the discovery stream, and what outlives its actor.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    actors::control::grpc::{AuthHeaders, GrpcTarget},
    protocols::{
        pb::ads::Node,
        xds::{DemandError, XdsState, backoff::Termination},
    },
};

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct XdsSettings {
    /// The control plane.
    pub target: GrpcTarget,
    /// Added to every stream.
    pub headers: AuthHeaders,
    /// Sent at the start of every stream.
    pub node: Node,
    /// Ask for addresses by name instead of for all.
    pub on_demand: bool,
    /// How long things may take.
    pub bounds: Bounds,
}

/// How long the parts of a stream may take before it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// From the first request to the first response. A busy control plane queues new streams, so this is long.
    pub first_answer: Duration,
    /// Handing a request to a server that does not read.
    pub send: Duration,
    /// Applying one response.
    pub apply: Duration,
}

/// What readiness and operators see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XdsStatus {
    /// Every type asked for as a whole was answered and applied once since the process started; never reverts.
    pub synced: bool,
    /// A stream stands.
    pub connected: bool,
    /// Why the last stream ended, or could not be opened.
    pub last_error: Option<Arc<str>>,
    /// Since when `connected` is what it is.
    pub since: Instant,
}

/// What is counted (docs/spec/controlplane.md 5.2).
pub(crate) trait XdsMetrics: Send + Sync + 'static {
    /// A response of this type came, with this many bytes of payload.
    fn message(&self, type_url: &str, bytes: usize);
    /// This many resources of one response were rejected; not called with none.
    fn rejected(&self, type_url: &str, resources: usize);
    /// A stream, or an attempt to open one, ended.
    fn terminated(&self, reason: Termination);
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Xds(pub(super) Arc<Shared>);

/// What the clones share.
pub(super) struct Shared {
    pub(super) settings: XdsSettings,
    pub(super) held: XdsState,
    pub(super) metrics: Arc<dyn XdsMetrics>,
    pub(super) status: watch::Sender<XdsStatus>,
}

// === impl Bounds ===

impl Bounds {
    /// What production runs with.
    /// Limit: one step of the discovery stream: 120 s for the first answer, 30 s for a request, 60 s for applying a
    /// response; past it: the stream is given up.
    pub(crate) const STANDARD: Bounds = Bounds {
        first_answer: Duration::from_secs(120),
        send: Duration::from_secs(30),
        apply: Duration::from_secs(60),
    };
}

// === impl Xds ===

impl Xds {
    /// A client that does nothing until its actor is started. `held` says what the tables hold, which is nothing at
    /// process start.
    pub(crate) fn new(settings: XdsSettings, held: XdsState, metrics: Arc<dyn XdsMetrics>) -> Self {
        let synced = held.is_synced(settings.on_demand);
        let status = XdsStatus { synced, connected: false, last_error: None, since: Instant::now() };
        Self(Arc::new(Shared { settings, held, metrics, status: watch::Sender::new(status) }))
    }

    /// The status, now and as it changes.
    pub(crate) fn state(&self) -> watch::Receiver<XdsStatus> {
        self.0.status.subscribe()
    }

    /// Asks for the address `name`: `network/ip`, a workload's uid, or `namespace/hostname`. It arrives in the sink,
    /// or the removal of that name does; or nothing, so wait for it with a bound.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "XDS_ON_DEMAND is refused until routing asks for what it misses")
    )]
    pub(crate) fn demand(&self, name: &str) -> Result<(), DemandError> {
        if self.0.settings.on_demand {
            self.0.held.demand(name)
        } else {
            Err(DemandError::Off(name.to_owned()))
        }
    }

    /// Changes the status.
    pub(super) fn update(&self, change: impl FnOnce(&mut XdsStatus)) {
        self.0.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            if status.connected != before.connected {
                status.since = Instant::now();
            }
            *status != before
        });
    }
}

impl fmt::Debug for Xds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xds")
            .field("target", &self.0.settings.target)
            .field("status", &*self.0.status.borrow())
            .finish_non_exhaustive()
    }
}
