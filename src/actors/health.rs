//! Readiness: what the parts of the process say of themselves, as the kubelet asks for it.

use std::sync::Arc;

use ractor::ActorProcessingErr;
use tokio::sync::watch;

use super::{
    admin::readiness::{Readiness, ReadyTask, STATE_MANAGER, WORKLOAD_PROXY_MANAGER},
    settings::HUNG_AFTER,
    telemetry::metrics::Metrics,
    xds::XdsStatus,
    zds::ZdsStatus,
};
use crate::supervisor::{Actor, Address, ChildSpec, Described, Mailbox, OwnedTask};

/// What readiness follows. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    xds: Option<watch::Receiver<XdsStatus>>,
    zds: watch::Receiver<ZdsStatus>,
    /// Opens once the first state of the mesh is complete.
    gate: Arc<watch::Sender<bool>>,
    metrics: Arc<Metrics>,
    state_manager: Arc<ReadyTask>,
    workload_manager: Arc<ReadyTask>,
}

struct HealthActor(Health);

/// The actor has no messages but the end of its watch.
enum Msg {
    /// A watched part is gone for good. Sent at most once.
    Lost,
}

// === impl Health ===

impl Health {
    /// Follows the discovery stream, if there is one, and the hand-over of pods.
    pub fn new(
        xds: Option<watch::Receiver<XdsStatus>>,
        zds: watch::Receiver<ZdsStatus>,
        gate: watch::Sender<bool>,
        readiness: &Readiness,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            xds,
            zds,
            gate: Arc::new(gate),
            metrics: metrics.clone(),
            state_manager: Arc::new(readiness.register(STATE_MANAGER)),
            workload_manager: Arc::new(readiness.register(WORKLOAD_PROXY_MANAGER)),
        }
    }

    /// The actor, to be run under a supervisor.
    pub fn child(&self) -> ChildSpec {
        let health = self.clone();
        ChildSpec::actor("health", &Address::new("health"), move || (HealthActor(health.clone()), ()))
            .kind_label("health")
            .hung_after(HUNG_AFTER)
    }

    async fn follow(mut self) {
        loop {
            let synced = self.xds.as_mut().is_none_or(|xds| xds.borrow_and_update().synced);
            // Once complete it stays so: stale state is better than none.
            if synced && !*self.gate.borrow() {
                self.state_manager.done();
                self.gate.send_replace(true);
            }
            self.show_pods();
            let pods = async { self.zds.changed().await };
            let stream = async {
                match &mut self.xds {
                    Some(xds) => xds.changed().await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! { changed = pods => changed, changed = stream => changed };
            if alive.is_err() {
                return;
            }
        }
    }

    fn show_pods(&mut self) {
        let status = self.zds.borrow_and_update();
        match status.detail() {
            None => self.workload_manager.done(),
            Some(detail) => self.workload_manager.pending(&detail),
        }
        let pods = &self.metrics.pods;
        pods.proxies(status.session.counts.active, status.session.counts.pending);
    }
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Lost => "lost",
        }
    }
}

impl Actor for HealthActor {
    type Msg = Msg;
    type State = OwnedTask;
    type Arguments = ();

    async fn pre_start(&self, myself: Mailbox<Msg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        let lost = move |_| drop(myself.cast(Msg::Lost));
        Ok(OwnedTask::spawn("health/watch", self.0.clone().follow(), lost))
    }

    async fn handle(&self, _: Mailbox<Msg>, _: Msg, _: &mut OwnedTask) -> Result<(), ActorProcessingErr> {
        Err("the watch over readiness ended".into())
    }
}
