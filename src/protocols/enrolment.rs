//! The enrolment rule finds pods of this node that the control plane counts to the mesh and istio-cni has not handed
//! over.
//!
//! The peers of such a pod tunnel to it, and its annotation says that it is in the mesh. Without the rules of istio-cni
//! its own connections go out in clear.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::mesh::{TunnelProtocol, Workload};

/// The time that istio-cni has to hand over a pod of which the control plane has told.
/// Limit: time until a pod of this node that istio-cni has not handed over is named: 10 s; past it: the pod is named.
pub(crate) const HAND_OVER_WITHIN: Duration = Duration::from_secs(10);
/// The time that the control plane has to take back a pod that istio-cni has taken back. It gathers changes before it
/// sends them.
/// Limit: time until a pod that istio-cni has taken back is named, if the control plane still counts the pod to the
/// mesh: 60 s; past it: the pod is named.
pub(crate) const REMOVAL_WITHIN: Duration = Duration::from_secs(60);
/// The number of pods of this node that the rule follows, as many as istio-cni may hand over.
/// Limit: pods of this node whose hand-over is expected: 4096; past it: further pods, by uid, are not followed.
pub(crate) const MAX_EXPECTED_PODS: usize = 4096;

/// The mark of a pod's uid (docs/spec/protos.md 1).
const POD_UID: &str = "//Pod/";

/// The place of the proxy, which tells the pods that istio-cni hands over to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyPlace {
    /// The node.
    pub(crate) node: String,
    /// The cluster. A node of another cluster may have the same name.
    pub(crate) cluster_id: String,
    /// The namespace and the service account of the proxies, which serve themselves.
    pub(crate) account: Option<(String, String)>,
}

/// The pods whose hand-over is expected, by the uid of the workload. Time and tables are arguments.
#[derive(Debug)]
pub(crate) struct Enrolment {
    place: ProxyPlace,
    pods: BTreeMap<Box<str>, Expected>,
}

/// The state of a pod whose hand-over is expected.
#[derive(Debug, Default)]
struct Expected {
    /// The moment since which the pod is missing in current tables.
    missing_since: Option<Instant>,
    /// Whether istio-cni has handed the pod over before.
    was_served: bool,
    named: bool,
}

/// A change of what an operator is told about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The pod is not handed over.
    Missing(Arc<Workload>),
    /// The pod that was missing is handed over.
    HandedOver(Arc<Workload>),
    /// The pod of this uid, which was missing, is no longer expected.
    Gone(Box<str>),
}

// === impl ProxyPlace ===

impl ProxyPlace {
    /// Whether istio-cni has to hand over `workload` to this proxy. Workloads that speak HBONE themselves, such as
    /// waypoints and gateways, are not handed over (docs/spec/protos.md 1), and neither are pods in the host's network
    /// (docs/spec/dataplane.md 6).
    pub(crate) fn expects(&self, workload: &Workload) -> bool {
        let is_proxy = self.account.as_ref().is_some_and(|(namespace, account)| {
            workload.namespace() == namespace && workload.service_account() == account
        });
        workload.protocol() == TunnelProtocol::Hbone
            && !workload.native_tunnel()
            && !workload.host_network()
            && workload.uid().contains(POD_UID)
            && workload.node() == self.node
            && workload.cluster_id() == self.cluster_id
            && !is_proxy
    }
}

// === impl Enrolment ===

impl Enrolment {
    /// Makes a rule that expects no pod yet.
    pub(crate) fn new(place: ProxyPlace) -> Self {
        Self { place, pods: BTreeMap::new() }
    }

    /// Compares the workloads of the node with the pods that are handed over. Returns what has changed.
    ///
    /// `current`: whether the control plane and istio-cni are both connected and have sent everything. While one is
    /// away, readiness says so, no further pod is named, and each pod gets its whole time again.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        workloads: &[Arc<Workload>],
        current: bool,
        is_handed_over: impl Fn(&Workload) -> bool,
    ) -> Vec<Change> {
        let expected: BTreeMap<&str, &Arc<Workload>> = workloads
            .iter()
            .filter(|workload| self.place.expects(workload))
            .map(|workload| (workload.uid(), workload))
            .collect();
        let mut changes = Vec::new();
        self.pods.retain(|uid, pod| {
            let stays = expected.contains_key(&**uid);
            if !stays && pod.named {
                changes.push(Change::Gone(uid.clone()));
            }
            stays
        });
        for (uid, workload) in expected.into_iter().take(MAX_EXPECTED_PODS) {
            let pod = self.pods.entry(uid.into()).or_default();
            let missing = !is_handed_over(workload);
            let was_named = pod.named;
            pod.look(now, missing, current);
            match (was_named, pod.named) {
                (false, true) => changes.push(Change::Missing(Arc::clone(workload))),
                (true, false) => changes.push(Change::HandedOver(Arc::clone(workload))),
                (false, false) | (true, true) => {}
            }
        }
        changes
    }
}

// === impl Expected ===

impl Expected {
    fn look(&mut self, now: Instant, missing: bool, current: bool) {
        if !missing {
            *self = Self { missing_since: None, was_served: true, named: false };
        } else if !current {
            self.missing_since = None;
        } else {
            let since = *self.missing_since.get_or_insert(now);
            let limit = if self.was_served { REMOVAL_WITHIN } else { HAND_OVER_WITHIN };
            self.named |= now.saturating_duration_since(since) >= limit;
        }
    }
}

#[cfg(test)]
mod tests;
