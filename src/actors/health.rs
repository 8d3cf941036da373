//! The health actor combines the states of the parts of the process into the readiness that the kubelet asks for.

use std::{collections::BTreeMap, sync::Arc};

use ractor::ActorProcessingErr;
use tokio::sync::watch;

use super::{
    HUNG_AFTER,
    admin::readiness::{
        OUT_OF_THE_MESH, Readiness, ReadyTask, STATE_MANAGER, WITHOUT_CERTIFICATE, WORKLOAD_PROXY_MANAGER,
    },
    control::{certs::Certs, xds::XdsStatus, zds::ZdsStatus},
    pods::unhealthy::{self, Named, Reason, UnhealthyPods},
    quarantine::Quarantine,
};
use crate::{
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, OwnedTask},
    sys::memory,
    telemetry::metrics::Metrics,
};

/// The kinds of input that can be quarantined.
const INPUTS: [&str; 4] = ["resource", "pod", "peer", "identity"];

/// The states that readiness follows. A clone is cheap.
#[derive(Clone)]
pub(crate) struct Health {
    xds: Option<watch::Receiver<XdsStatus>>,
    zds: Option<watch::Receiver<ZdsStatus>>,
    unhealthy: watch::Receiver<BTreeMap<Arc<str>, Named>>,
    certs: Certs,
    quarantine: Quarantine,
    /// The gate, which is true once the first state of the mesh is complete.
    gate: Arc<watch::Sender<bool>>,
    metrics: Arc<Metrics>,
    state_manager: Arc<ReadyTask>,
    /// Of the hand-over, where there is one.
    workload_manager: Option<Arc<ReadyTask>>,
    readiness: Readiness,
}

/// The states that determine readiness.
pub(crate) struct HealthSources<'a> {
    /// The state of the discovery stream, if there is one.
    pub(crate) xds: Option<watch::Receiver<XdsStatus>>,
    /// The state of the hand-over of pods, if there is one.
    pub(crate) zds: Option<watch::Receiver<ZdsStatus>>,
    /// The certificates of the node.
    pub(crate) certs: Certs,
    /// The pods that are out of the mesh.
    pub(crate) unhealthy: &'a UnhealthyPods,
    /// The inputs that are quarantined.
    pub(crate) quarantine: &'a Quarantine,
}

struct HealthActor(Health);

/// Messages of the health actor.
enum Msg {
    /// The sender of a watched state is gone for good. The message is sent at most once.
    Lost,
}

// === impl Health ===

impl Health {
    /// Makes a health that follows `sources` and opens `gate` once the first state of the mesh is complete.
    pub(crate) fn new(
        sources: HealthSources<'_>,
        gate: watch::Sender<bool>,
        readiness: &Readiness,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let HealthSources { xds, zds, certs, unhealthy, quarantine } = sources;
        let workload_manager = zds.is_some().then(|| Arc::new(readiness.register(WORKLOAD_PROXY_MANAGER)));
        Self {
            xds,
            zds,
            unhealthy: unhealthy.now(),
            certs,
            quarantine: quarantine.clone(),
            gate: Arc::new(gate),
            metrics: metrics.clone(),
            state_manager: Arc::new(readiness.register(STATE_MANAGER)),
            workload_manager,
            readiness: readiness.clone(),
        }
    }

    /// The actor, as a child of a supervisor.
    pub(crate) fn child(&self) -> ChildSpec {
        let health = self.clone();
        ChildSpec::actor("health", &Address::new("health"), move || (HealthActor(health.clone()), ()))
            .kind_label("health")
            .hung_after(HUNG_AFTER)
    }

    async fn follow(mut self) {
        let mut quarantine = self.quarantine.changed();
        let mut certs = self.certs.changed();
        let (mut started, mut none) = (false, false);
        loop {
            let synced = self.xds.as_mut().is_none_or(|xds| xds.borrow_and_update().synced);
            // The gate stays open once the state was complete: stale state is better than none.
            if synced && !*self.gate.borrow() {
                self.state_manager.done();
                self.gate.send_replace(true);
            }
            let served = self.show_pods();
            if synced && served && !started {
                started = true;
                memory::give_back_code();
            }
            self.show_unhealthy();
            certs.borrow_and_update();
            none = self.show_certificates(none);
            quarantine.borrow_and_update();
            self.show_quarantine();
            let pods = async {
                match &mut self.zds {
                    Some(zds) => zds.changed().await,
                    None => std::future::pending().await,
                }
            };
            let unhealthy = async { self.unhealthy.changed().await };
            let stream = async {
                match &mut self.xds {
                    Some(xds) => xds.changed().await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! {
                changed = pods => changed,
                changed = unhealthy => changed,
                changed = quarantine.changed() => changed,
                changed = certs.changed() => changed,
                changed = stream => changed,
            };
            if alive.is_err() {
                return;
            }
        }
    }

    /// Shows the state of the hand-over. Returns whether no pod waits.
    fn show_pods(&mut self) -> bool {
        let (Some(zds), Some(workload_manager)) = (&mut self.zds, &self.workload_manager) else {
            return true;
        };
        let status = zds.borrow_and_update();
        let detail = status.detail();
        match &detail {
            None => workload_manager.done(),
            Some(detail) => workload_manager.pending(detail),
        }
        let pods = &self.metrics.pods;
        pods.proxies(status.session.counts.active, status.session.counts.pending);
        detail.is_none()
    }

    fn show_quarantine(&self) {
        let aside = self.quarantine.list();
        for kind in INPUTS {
            let inputs = aside.iter().filter(|input| input.kind == kind).count();
            self.metrics.actors.quarantined(kind, inputs as u64);
        }
    }

    /// Counts the identities without a certificate. `none`: whether all of them had none. Returns whether all of them
    /// have none. Readiness has no task for certificates (docs/spec/controlplane.md 7.4).
    fn show_certificates(&self, none: bool) -> bool {
        let lacking = self.certs.lacking();
        self.readiness.note(WITHOUT_CERTIFICATE, &lacking.to_string());
        match (none, lacking.is_all()) {
            (false, true) => {
                tracing::error!(target: "certs", %lacking, "no workload of this node has a certificate")
            }
            (true, false) => {
                tracing::info!(target: "certs", "workloads of this node have certificates again")
            }
            (false, false) | (true, true) => {}
        }
        lacking.is_all()
    }

    /// Names the pods that are out of the mesh. Such a pod does not make the node unready: the other pods are served.
    fn show_unhealthy(&mut self) {
        let unhealthy = self.unhealthy.borrow_and_update();
        self.readiness.note(OUT_OF_THE_MESH, &unhealthy::describe(&unhealthy));
        for reason in Reason::ALL {
            let pods = unhealthy.values().filter(|named| named.reason() == reason).count();
            self.metrics.pods.unhealthy(reason.as_str(), pods as u64);
        }
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

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        let lost = move |_| drop(myself.cast(Msg::Lost));
        Ok(OwnedTask::spawn("health/watch", self.0.clone().follow(), lost))
    }

    async fn handle(&self, _: ActorRef<Msg>, _: Msg, _: &mut OwnedTask) -> Result<(), ActorProcessingErr> {
        Err("the watch over readiness ended".into())
    }
}
