//! Pods that are served and have fallen out of the mesh: who, and why. Readiness and metrics follow it.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::dataplane::pod::Pod;

/// Pods named in readiness; the others are counted.
const NAMED: usize = 16;

/// What is wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
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
pub struct Unhealthy {
    reason: Reason,
    detail: Arc<str>,
}

/// The pods in trouble, by uid. Clones share it; it outlives the actors that find it.
#[derive(Clone, Debug, Default)]
pub struct UnhealthyPods {
    now: watch::Sender<BTreeMap<Arc<str>, Named>>,
}

/// A pod's name and its trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pod: Arc<str>,
    unhealthy: Unhealthy,
}

/// Where canaries are awaited: the last that came, of each family.
#[derive(Debug)]
pub struct Canaries(watch::Sender<[Option<SocketAddr>; 2]>);

// === impl Reason ===

impl Reason {
    /// All.
    pub const ALL: [Self; 4] = [Self::Redirection, Self::Listener, Self::Network, Self::Quarantine];

    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirection => "redirection",
            Self::Listener => "listener",
            Self::Network => "network",
            Self::Quarantine => "quarantine",
        }
    }
}

// === impl Trouble ===

impl Unhealthy {
    /// The trouble, in words for an operator.
    pub fn new(reason: Reason, detail: impl Into<Arc<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

// === impl Troubles ===

impl UnhealthyPods {
    /// Says what is wrong with `pod` now; logged when it changes.
    pub fn tell(&self, pod: &Pod, unhealthy: Option<Unhealthy>) {
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
    pub fn forget(&self, uid: &str) {
        self.now.send_if_modified(|now| now.remove(uid).is_some());
    }

    /// The pods in trouble, now and as it changes.
    pub fn now(&self) -> watch::Receiver<BTreeMap<Arc<str>, Named>> {
        self.now.subscribe()
    }
}

// === impl Named ===

impl Named {
    /// Why.
    pub fn reason(&self) -> Reason {
        self.unhealthy.reason
    }
}

/// The pods and their troubles in words, those past a bound counted; empty without any.
pub fn describe(unhealthy: &BTreeMap<Arc<str>, Named>) -> String {
    let mut parts: Vec<String> =
        unhealthy.iter().take(NAMED).map(|(uid, named)| format!("pod {uid} {named}")).collect();
    if let Some(more @ 1..) = unhealthy.len().checked_sub(NAMED) {
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}): {}", self.pod, self.unhealthy.detail)
    }
}

// === impl Canaries ===

impl Default for Canaries {
    fn default() -> Self {
        Self(watch::Sender::new([None, None]))
    }
}

impl Canaries {
    /// One has come from this address.
    pub fn arrived(&self, from: SocketAddr) {
        self.0.send_modify(|[v4, v6]| *if from.is_ipv4() { v4 } else { v6 } = Some(from));
    }

    /// Waits for the one from this port; its address may have been changed on its way.
    pub async fn arrival(&self, from: SocketAddr) {
        let came = |[v4, v6]: &[Option<SocketAddr>; 2]| {
            let last = if from.is_ipv4() { v4 } else { v6 };
            last.is_some_and(|last| last.port() == from.port())
        };
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(came).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(detail: &str) -> Named {
        Named { pod: "default/web".into(), unhealthy: Unhealthy::new(Reason::Network, detail) }
    }

    #[test]
    fn pods_are_named_up_to_a_bound() {
        assert_eq!(describe(&BTreeMap::new()), "");
        let one = BTreeMap::from([("u1".into(), named("no network"))]);
        assert_eq!(describe(&one), "pod u1 (default/web): no network");
        let many = (0..NAMED + 3).map(|n| (format!("u{n:02}").into(), named("gone"))).collect();
        let text = describe(&many);
        assert!(text.contains("pod u15 ") && !text.contains("pod u16 "), "{text}");
        assert!(text.ends_with("; and 3 more"), "{text}");
    }

    #[tokio::test]
    async fn a_canary_is_known_by_its_port_and_family() {
        let canaries = Canaries::default();
        let v4: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        canaries.arrived("[2001:db8::2]:4000".parse().unwrap());
        canaries.arrived("10.0.0.1:4001".parse().unwrap());
        let mut arrival = Box::pin(canaries.arrival(v4));
        assert!(futures_poll(&mut arrival).await.is_none());
        canaries.arrived(v4);
        arrival.await;
    }

    /// What the future gives if it is asked once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
