//! The handle of the hand-over of connections.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    actor::{HandoverActor, Msg},
    fault::Breaker,
    shared::{Shared, Terms},
};
use crate::{
    actors::{HUNG_AFTER, admin::readiness::Readiness, control::zds::ZdsStatus, pods::Pods},
    protocols::handover::message::Hello,
    supervisor::{Address, ChildSpec},
    telemetry::metrics::Metrics,
};

/// The hand-over of connections between this process and its neighbours in time. A clone is cheap.
#[derive(Clone)]
pub(crate) struct Handover {
    shared: Arc<Shared>,
    address: Address<Msg>,
}

// === impl Handover ===

impl Handover {
    /// Makes the hand-over of the connections of `pods`.
    pub(crate) fn new(
        terms: Terms,
        pods: Pods,
        zds: watch::Receiver<ZdsStatus>,
        metrics: Arc<Metrics>,
        readiness: &Readiness,
    ) -> Self {
        let instance = format!("{:032x}", rand::random::<u128>());
        let hello = Hello::new(env!("CARGO_PKG_VERSION"), &instance);
        let leaves = watch::Sender::new(false);
        let (readiness, breaker) = (readiness.clone(), Breaker::new(terms.fault));
        let shared = Shared { terms, hello, pods, zds, metrics, readiness, breaker, leaves };
        Self { shared: Arc::new(shared), address: Address::new("handover") }
    }

    /// The actor, as a child of a supervisor.
    pub(crate) fn child(&self) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::actor("handover", &self.address, move || (HandoverActor, shared.clone()))
            .kind_label("handover")
            .hung_after(HUNG_AFTER)
    }

    /// Takes no more connections, and gives those of this process to the next one, once there is one.
    pub(crate) fn leave(&self) {
        self.shared.leaves.send_replace(true);
    }
}
