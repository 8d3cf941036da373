//! The handle of the revocation lists.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{
    actor::{CrlActor, Msg},
    shared::{Shared, Tunnels},
};
use crate::{
    actors::pods::{Pods, pod::Pod},
    dataplane::{
        pod::conns::{PeerTunnel, TunnelInfo},
        tracked_hop::TrackedHop,
    },
    protocols::tls::{RevocationLists, Revocations},
    runtime::conns::ConnSet,
    supervisor::{Address, ChildSpec},
    telemetry::metrics::Metrics,
};

/// The time in which a file must be read into lists and all tunnels of all pods checked.
/// Limit: one reload of revocation lists, checks of all tunnels included: 10 s; past it: the watchdog has the actor
/// killed.
const CRL_HUNG_AFTER: Duration = Duration::from_secs(10);

/// The handle of the revocation lists. A clone is cheap.
#[derive(Clone)]
pub(crate) struct Crl {
    pub(super) shared: Arc<Shared>,
    address: Address<Msg>,
}

impl Tunnels for Pods {
    fn tunnels(&self) -> Vec<(ConnSet<PeerTunnel>, ConnSet<TunnelInfo>)> {
        let of_pod = |pod: Arc<Pod>| (pod.conns().peers.clone(), pod.conns().dialled.clone());
        self.all().into_iter().map(of_pod).collect()
    }

    fn hops(&self) -> ConnSet<TrackedHop> {
        self.local_hops().clone()
    }
}

// === impl Crl ===

impl Crl {
    /// Makes a handle of the lists in the file `path`. The lists come into force in `lists`.
    pub(crate) fn new(
        path: PathBuf,
        required: bool,
        lists: Arc<Revocations>,
        tunnels: Arc<dyn Tunnels>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (started, parse) = (AtomicBool::new(false), RevocationLists::parse);
        let shared = Shared { path, required, started, parse, lists, tunnels, metrics };
        Self { shared: Arc::new(shared), address: Address::new("crl") }
    }

    /// The actor, as a child of a supervisor. The lists in force survive restarts of the actor.
    pub(crate) fn child(&self) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::actor("crl", &self.address, move || (CrlActor, shared.clone()))
            .kind_label("crl")
            .hung_after(CRL_HUNG_AFTER)
    }
}
