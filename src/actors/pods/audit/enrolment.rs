//! The enrolment audit compares the control plane's pods of this node with the pods that istio-cni has handed over.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    actors::{
        control::{xds::XdsStatus, zds::ZdsStatus},
        pods::{
            node::Node,
            table::PodTable,
            unhealthy::{Reason, Unhealthy},
        },
    },
    protocols::{
        enrolment::{Change, Enrolment, ProxyPlace},
        mesh::Workload,
        zds::session::Link,
    },
};

/// The words for an operator.
const DETAIL: &str = "istio-cni has not handed it over, so its traffic may be in clear";

/// The states that tell whether the pods of both sides are all there.
pub(crate) struct EnrolmentSources {
    /// The state of the discovery stream, if there is one.
    pub(crate) xds: Option<watch::Receiver<XdsStatus>>,
    /// The state of the hand-over.
    pub(crate) zds: watch::Receiver<ZdsStatus>,
    /// The place of this proxy.
    pub(crate) place: ProxyPlace,
}

/// The audit, which outlives the audit actor.
pub(super) struct EnrolmentAudit {
    xds: Option<watch::Receiver<XdsStatus>>,
    zds: watch::Receiver<ZdsStatus>,
    rule: Mutex<Enrolment>,
}

// === impl EnrolmentAudit ===

impl EnrolmentAudit {
    pub(super) fn new(EnrolmentSources { xds, zds, place }: EnrolmentSources) -> Self {
        Self { xds, zds, rule: Mutex::new(Enrolment::new(place)) }
    }

    /// Looks at all pods of the node, and names those that are not handed over.
    pub(super) fn look(&self, node: &Node, pods: &PodTable) {
        let connected = self.xds.as_ref().is_none_or(|xds| xds.borrow().connected);
        let (live, pending) = {
            let status = self.zds.borrow();
            let pending: Vec<String> =
                status.session.pending.iter().filter_map(|pending| pending.name.clone()).collect();
            (status.session.link == Link::Live, pending)
        };
        let served = pods.all();
        // A pod that is handed over and cannot be served is named by the hand-over.
        let handed_over: HashSet<(&str, &str)> = served
            .iter()
            .map(|pod| (&*pod.id.info.namespace, &*pod.id.info.name))
            .chain(pending.iter().filter_map(|name| name.split_once('/')))
            .collect();
        let is_handed_over =
            |workload: &Workload| handed_over.contains(&(workload.namespace(), workload.name()));
        let workloads = node.mesh.tables().local_workloads();
        let now = Instant::now().into_std();
        for change in self.rule.lock().look(now, &workloads, connected && live, is_handed_over) {
            let (workload, unhealthy) = match change {
                Change::Missing(workload) => (workload, Some(Unhealthy::new(Reason::NotHandedOver, DETAIL))),
                Change::HandedOver(workload) => (workload, None),
                Change::Gone(uid) => {
                    node.unhealthy.forget(&uid);
                    continue;
                }
            };
            let name = format!("{}/{}", workload.namespace(), workload.name());
            node.unhealthy.tell_of(&Arc::from(workload.uid()), name.into(), unhealthy);
        }
    }
}
