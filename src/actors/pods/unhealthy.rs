//! Pods of this node that are out of the mesh, with the reasons. Readiness and metrics show these pods.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::sync::watch;

use crate::dataplane::pod::PodId;

/// The number of unhealthy pods that readiness names; further pods are counted.
/// Limit: pods out of the mesh that readiness names: 16; past it: the others are counted.
const MAX_NAMED_PODS: usize = 16;

/// The reason why a pod is unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The pod's connections do not reach the proxy.
    Redirection,
    /// A listener of the pod does not listen.
    Listener,
    /// The pod's namespace cannot be entered, or has no network.
    Network,
    /// The pod's actors failed too often and are quarantined.
    Quarantine,
    /// The control plane counts the pod to the mesh, and istio-cni has not handed the pod over.
    NotHandedOver,
}

/// The reason and the details why a pod is not in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    reason: Reason,
    detail: Arc<str>,
}

/// The unhealthy pods by uid. A pod that is not served has the uid of its workload. Clones share the pods. The value
/// outlives the actors that examine pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnhealthyPods {
    now: watch::Sender<BTreeMap<Arc<str>, Named>>,
}

/// An unhealthy pod: the name of the pod, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pod: Arc<str>,
    unhealthy: Unhealthy,
}

// === impl Reason ===

impl Reason {
    /// All reasons.
    pub(crate) const ALL: [Self; 5] =
        [Self::Redirection, Self::Listener, Self::Network, Self::Quarantine, Self::NotHandedOver];

    /// The value of the metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redirection => "redirection",
            Self::Listener => "listener",
            Self::Network => "network",
            Self::Quarantine => "quarantine",
            Self::NotHandedOver => "not handed over",
        }
    }
}

// === impl Unhealthy ===

impl Unhealthy {
    /// Makes the value. `detail`: words for an operator.
    pub(crate) fn new(reason: Reason, detail: impl Into<Arc<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

// === impl UnhealthyPods ===

impl UnhealthyPods {
    /// Sets what is wrong with `pod` now; `None` means healthy. A change is logged.
    pub(crate) fn tell(&self, pod: &PodId, unhealthy: Option<Unhealthy>) {
        self.tell_of(&pod.uid, pod.name(), unhealthy);
    }

    /// Like [`Self::tell`], for a pod that is not served. `uid`: the uid of the workload, which no served pod has.
    pub(crate) fn tell_of(&self, uid: &Arc<str>, name: Arc<str>, unhealthy: Option<Unhealthy>) {
        let changed = self.now.send_if_modified(|now| match &unhealthy {
            Some(unhealthy) => {
                let named = Named { pod: name.clone(), unhealthy: unhealthy.clone() };
                now.insert(uid.clone(), named.clone()).is_none_or(|before| before != named)
            }
            None => now.remove(&**uid).is_some(),
        });
        let uid = &**uid;
        match unhealthy {
            Some(Unhealthy { reason, detail }) if changed => {
                let reason = reason.as_str();
                tracing::error!(target: "audit", uid, pod = %name, reason, %detail, "pod is out of the mesh");
            }
            None if changed => tracing::info!(target: "audit", uid, pod = %name, "pod is in the mesh again"),
            _ => {}
        }
    }

    /// Forgets a pod that has ended.
    pub(crate) fn forget(&self, uid: &str) {
        self.now.send_if_modified(|now| now.remove(uid).is_some());
    }

    /// A receiver of the unhealthy pods, which sees each change.
    pub(crate) fn now(&self) -> watch::Receiver<BTreeMap<Arc<str>, Named>> {
        self.now.subscribe()
    }
}

// === impl Named ===

impl Named {
    /// The name of the pod.
    pub(crate) fn name(&self) -> &str {
        &self.pod
    }

    /// What is wrong, in words.
    pub(crate) fn detail(&self) -> String {
        self.unhealthy.detail.to_string()
    }

    /// The reason why the pod is unhealthy.
    pub(crate) fn reason(&self) -> Reason {
        self.unhealthy.reason
    }
}

/// Describes the unhealthy pods in words. At most [`MAX_NAMED_PODS`] are named; further pods are counted. Empty
/// without unhealthy pods.
pub(crate) fn describe(unhealthy: &BTreeMap<Arc<str>, Named>) -> String {
    let mut parts: Vec<String> =
        unhealthy.iter().take(MAX_NAMED_PODS).map(|(uid, named)| format!("pod {uid} {named}")).collect();
    if let Some(more @ 1..) = unhealthy.len().checked_sub(MAX_NAMED_PODS) {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}): {}", self.pod, self.unhealthy.detail)
    }
}

#[cfg(test)]
mod tests;
