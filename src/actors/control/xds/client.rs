//! The handle of the discovery stream, and the state that outlives the actor.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    actors::control::grpc::{AuthHeaders, GrpcTarget},
    dataplane::on_demand::Directory,
    protocols::{
        pb::ads::Node,
        xds::{DemandError, Demanded, XdsState, backoff::Termination},
    },
};

/// The settings of the discovery stream: the server, and the identity of the proxy.
#[derive(Clone, Debug)]
pub(crate) struct XdsSettings {
    /// The server of the control plane.
    pub target: GrpcTarget,
    /// The headers of every stream.
    pub headers: AuthHeaders,
    /// The node description that the first request of every stream carries.
    pub node: Node,
    /// Whether the client asks for single addresses by name instead of all addresses.
    pub on_demand: bool,
    /// The time limits of a stream.
    pub bounds: Bounds,
}

/// The time limits of the steps of a stream. A stream that exceeds a limit is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The time from the first request to the first response. This limit is long, as a busy control plane queues
    /// streams.
    pub first_answer: Duration,
    /// The time to hand a request to a server that does not read.
    pub send: Duration,
    /// The time to apply one response.
    pub apply: Duration,
}

/// The status of the discovery stream, which readiness and the admin interface show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct XdsStatus {
    /// Whether every type with a wildcard subscription was answered and applied once since the process started. The
    /// value never becomes false again.
    pub synced: bool,
    /// Whether a stream is open.
    pub connected: bool,
    /// The reason why the last stream ended or could not be opened.
    pub last_error: Option<Arc<str>>,
    /// The time of the last change of `connected`.
    pub since: Instant,
}

/// The counters of the discovery stream (docs/spec/controlplane.md 5.2).
pub(crate) trait XdsMetrics: Send + Sync + 'static {
    /// Counts a response of this type with `bytes` bytes of payload.
    fn message(&self, type_url: &str, bytes: usize);
    /// Counts the time from the arrival of a response of this type until it is applied.
    fn applied(&self, type_url: &str, time: Duration);
    /// Counts rejected resources of one response. The call is not made for zero resources.
    fn rejected(&self, type_url: &str, resources: usize);
    /// Counts the end of a stream or of an attempt to open a stream.
    fn terminated(&self, reason: Termination);
}

/// The handle of the discovery stream. A clone is cheap.
#[derive(Clone)]
pub(crate) struct Xds(pub(super) Arc<Shared>);

/// The state that clones of the handle share.
pub(super) struct Shared {
    pub(super) settings: XdsSettings,
    pub(super) held: XdsState,
    pub(super) metrics: Arc<dyn XdsMetrics>,
    pub(super) status: watch::Sender<XdsStatus>,
}

// === impl Bounds ===

impl Bounds {
    /// The limits in production.
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
    /// Makes a client that does nothing until its actor is started. `held`: the resources in the tables, which are
    /// empty at process start.
    pub(crate) fn new(settings: XdsSettings, held: XdsState, metrics: Arc<dyn XdsMetrics>) -> Self {
        let synced = held.is_synced(settings.on_demand);
        let status = XdsStatus { synced, connected: false, last_error: None, since: Instant::now() };
        Self(Arc::new(Shared { settings, held, metrics, status: watch::Sender::new(status) }))
    }

    /// A receiver of the status, which sees each change.
    pub(crate) fn state(&self) -> watch::Receiver<XdsStatus> {
        self.0.status.subscribe()
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

impl Directory for Xds {
    fn demand(&self, name: &str) -> Result<Demanded, DemandError> {
        if !self.0.settings.on_demand {
            return Err(DemandError::Off(name.to_owned()));
        }
        let connected = self.0.status.borrow().connected;
        self.0.held.demand(name, Instant::now().into_std(), connected)
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
