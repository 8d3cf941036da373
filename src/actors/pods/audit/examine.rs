//! The examination of a pod checks three things. The listeners of the pod listen, and each shard accepts from them.
//! The namespace of the pod has a network. An ordinary connection of the pod still reaches the proxy. The examination
//! repairs a fault if it can, and otherwise names the fault in readiness, metrics and log.
//!
//! The canary is one connection from inside the pod, without the proxy's mark, to an address that no network has. The
//! pod's own rules must redirect the canary to 15001. The listener there recognizes the address and drops the canary
//! before the canary is counted or logged. Without the rules the canary is one packet with a hop limit of 1, which
//! the node drops.
//!
//! The inbound rules (PREROUTING) cannot be tried from inside: packets that a pod sends to itself do not pass
//! PREROUTING. Inbound and outbound rules belong to one table, so both are present or both are missing.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    actors::pods::{
        capture::Msg as CaptureMsg,
        pod::Pod,
        unhealthy::{Reason, Unhealthy},
    },
    dataplane::listener::ListenerKind,
    sys::probe::{self, Canary, Flight},
};

/// The time in which a capture actor must answer an audit, its restart included.
/// Limit: answer of a listener's actor to an audit, its restart included: 500 ms; past it: the pod is named.
const CAPTURE_ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// The time in which a canary must arrive. The kernel answers at once or never; the accept takes one turn of a shard.
/// Limit: flight of a canary: 300 ms; past it: the canary is lost.
const CANARY_FLIGHT: Duration = Duration::from_millis(300);
/// The number of canaries lost in a row after which the redirection counts as lost.
/// Limit: canaries that are lost in a row: 2; past it: the pod is named.
const LOST_CANARIES: u32 = 2;

/// The finding of an examination.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The examination found no fault.
    Sound,
    /// The examination could not try everything: the last finding stays.
    Unclear,
    /// The examination found this fault.
    Wrong(Unhealthy),
}

/// Examines `pod`. `wrong`: the last examination found a fault. `has_network`: an interface is known to be up.
pub(super) async fn examine(pod: &Arc<Pod>, wrong: bool, has_network: bool) -> Finding {
    for &kind in pod.kinds() {
        // The actor is asked only where a repair may be needed.
        if !wrong && serves(pod, kind) {
            continue;
        }
        if let Err(why) = capture(pod, kind).await {
            let detail = format!("port {} ({}): {why}", kind.port(), kind.name());
            return Finding::Wrong(Unhealthy::new(Reason::Listener, detail));
        }
    }
    // A canary needs the listener that pods are redirected to.
    if pod.is_redirected() { network(pod, has_network).await } else { Finding::Sound }
}

/// Whether the listener listens and each living shard accepts from the listener.
fn serves(pod: &Pod, kind: ListenerKind) -> bool {
    let listens =
        pod.listeners.sockets.lock().get(&kind).is_some_and(|listener| probe::is_listening(listener));
    listens && pod.listeners.accept_loops.count(kind) >= pod.node.shards.living()
}

/// Asks the capture actor to check and repair its listener and accept loops.
async fn capture(pod: &Pod, kind: ListenerKind) -> Result<(), String> {
    let looked = pod.captures.of(kind).call(CAPTURE_ANSWER_WITHIN, CaptureMsg::Audit).await;
    let repaired = looked.map_err(|error| error.to_string())??;
    if let Some(what) = repaired {
        pod.node.metrics.pods.repaired(what.as_str());
        let (kind, uid) = (kind.name(), &*pod.id.uid);
        tracing::warn!(target: "audit", uid, pod = %pod.id.name(), kind, what = what.as_str(), "repaired");
    }
    Ok(())
}

/// Tries the pod's network and redirection.
async fn network(pod: &Arc<Pod>, has_network: bool) -> Finding {
    let mut found = Finding::Unclear;
    for again in 0..LOST_CANARIES {
        found = try_once(pod, has_network && again == 0).await;
        if !matches!(found, Finding::Wrong(_)) {
            break;
        }
    }
    found
}

async fn try_once(pod: &Arc<Pod>, has_network: bool) -> Finding {
    let ipv6 = pod.node.config.listen.ipv6_enabled;
    let sent = pod.network().netns.enter(|| {
        let network = has_network || probe::network().map_or(true, |found| found.is_some());
        (network, Canary::send(false), if ipv6 { Canary::send(true) } else { Ok(None) })
    });
    let (network, v4, v6) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            let detail = format!("its network namespace cannot be entered: {error}");
            return Finding::Wrong(Unhealthy::new(Reason::Network, detail));
        }
    };
    if !network {
        let detail = "its network namespace has no interface that is up, other than loopback";
        return Finding::Wrong(Unhealthy::new(Reason::Network, detail));
    }
    let mut found = Finding::Sound;
    for (family, sent) in [("IPv4", v4), ("IPv6", v6)] {
        let fate = match sent {
            Ok(None) => Finding::Sound,
            Ok(Some(canary)) => follow(pod, family, &canary).await,
            // The canary was not sent: a rule of the pod forbade the packet, or ports or memory were short.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => lost(family, &error.to_string()),
            Err(_) => Finding::Unclear,
        };
        match fate {
            Finding::Sound => {}
            Finding::Unclear => found = Finding::Unclear,
            wrong @ Finding::Wrong(_) => return wrong,
        }
    }
    found
}

async fn follow(pod: &Arc<Pod>, family: &str, canary: &Canary) -> Finding {
    if timeout(CANARY_FLIGHT, pod.outbound.canaries.arrival(canary.from())).await.is_ok() {
        return Finding::Sound;
    }
    match canary.flight() {
        // The canary is in the queue of a listener, and only this proxy and its successor listen there.
        Flight::Answered => Finding::Sound,
        Flight::Silent if is_flooded(pod) => Finding::Unclear,
        Flight::Silent => lost(family, "it does not arrive"),
        Flight::Refused(error) => lost(family, &error.to_string()),
    }
}

/// Whether connections wait in the outbound listener: the kernel drops a connection that finds the queue full.
fn is_flooded(pod: &Pod) -> bool {
    let listeners = pod.listeners.sockets.lock();
    let waiting = listeners.get(&ListenerKind::Outbound).map(|held| probe::waiting(held));
    waiting.is_some_and(|waiting| waiting.is_ok_and(|waiting| waiting.now > 0))
}

fn lost(family: &str, why: &str) -> Finding {
    let detail =
        format!("{family} connections are not redirected to port {}: {why}", ListenerKind::Outbound.port());
    Finding::Wrong(Unhealthy::new(Reason::Redirection, detail))
}
