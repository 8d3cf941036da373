//! Pods that are served and have fallen out of the mesh: who, and why. Readiness and metrics follow it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::sync::watch;

use crate::dataplane::pod::PodId;

/// Pods named in readiness; the others are counted.
/// Limit: pods out of the mesh that readiness names: 16; past it: the others are counted.
const MAX_NAMED_PODS: usize = 16;

/// What is wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Its connections do not reach the proxy.
    Redirection,
    /// One of its ports is not listened on.
    Listener,
    /// Its namespace cannot be entered, or has no network.
    Network,
    /// Its actors failed too often and are set aside.
    Quarantine,
}

/// Why a pod is not in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    reason: Reason,
    detail: Arc<str>,
}

/// The pods in trouble, by uid. Clones share it; it outlives the actors that find it.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnhealthyPods {
    now: watch::Sender<BTreeMap<Arc<str>, Named>>,
}

/// A pod's name and its trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pod: Arc<str>,
    unhealthy: Unhealthy,
}

// === impl Reason ===

impl Reason {
    /// All.
    pub(crate) const ALL: [Self; 4] = [Self::Redirection, Self::Listener, Self::Network, Self::Quarantine];

    /// The metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redirection => "redirection",
            Self::Listener => "listener",
            Self::Network => "network",
            Self::Quarantine => "quarantine",
        }
    }
}

// === impl Unhealthy ===

impl Unhealthy {
    /// The trouble, in words for an operator.
    pub(crate) fn new(reason: Reason, detail: impl Into<Arc<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

// === impl UnhealthyPods ===

impl UnhealthyPods {
    /// Says what is wrong with `pod` now; logged when it changes.
    pub(crate) fn tell(&self, pod: &PodId, unhealthy: Option<Unhealthy>) {
        let (uid, name) = (&*pod.uid, pod.name());
        let changed = self.now.send_if_modified(|now| match &unhealthy {
            Some(unhealthy) => {
                let named = Named { pod: name.clone(), unhealthy: unhealthy.clone() };
                now.insert(pod.uid.clone(), named.clone()).is_none_or(|before| before != named)
            }
            None => now.remove(uid).is_some(),
        });
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

    /// The pods in trouble, now and as it changes.
    pub(crate) fn now(&self) -> watch::Receiver<BTreeMap<Arc<str>, Named>> {
        self.now.subscribe()
    }
}

// === impl Named ===

impl Named {
    /// Why.
    pub(crate) fn reason(&self) -> Reason {
        self.unhealthy.reason
    }
}

/// The pods and their troubles in words, those past a bound counted; empty without any.
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
