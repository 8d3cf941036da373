//! The examination of a pod: its listeners listen and are accepted from on every shard, its namespace has a network, and
//! an ordinary connection of the pod still reaches the proxy. What can be repaired is; what cannot is named in readiness,
//! metrics and log.
//!
//! The canary is one connection from inside the pod, without our mark, to an address that no network has. The pod's own
//! rules must turn it to 15001, where it is known by that address and dropped before anything is counted or logged. With
//! the rules gone it is one packet with a hop limit of 1, which the node itself drops. The way in (PREROUTING) cannot be
//! tried from inside: what a pod sends to itself never passes there. Both ways are rules of one table, which come and go
//! together.

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

/// How long a capture may take to look after itself; its restart is waited for meanwhile.
/// Limit: answer of a listener's actor to an audit, its restart included: 500 ms; past it: the pod is named.
const CAPTURE_ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// How long a canary may fly. The kernel answers at once or never; only its acceptance takes a turn of a shard.
/// Limit: flight of a canary: 300 ms; past it: the canary is lost.
const CANARY_FLIGHT: Duration = Duration::from_millis(300);
/// Canaries lost in a row until the redirection is.
/// Limit: canaries that are lost in a row: 2; past it: the pod is named.
const LOST_CANARIES: u32 = 2;

/// What an examination found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// All is well.
    Sound,
    /// It could not be tried now: what was known stays.
    Unclear,
    /// This is wrong.
    Wrong(Unhealthy),
}

/// Examines `pod`. `wrong`: something was wrong when last examined. `has_network`: an interface is known to be up.
pub(super) async fn examine(pod: &Arc<Pod>, wrong: bool, has_network: bool) -> Finding {
    for &kind in pod.kinds() {
        // The actor is asked only where there may be something to repair.
        if !wrong && serves(pod, kind) {
            continue;
        }
        if let Err(why) = capture(pod, kind).await {
            let detail = format!("port {} ({}): {why}", kind.port(), kind.name());
            return Finding::Wrong(Unhealthy::new(Reason::Listener, detail));
        }
    }
    // The proxy's own pod has no rules, and the host's network.
    if pod.id.is_own { Finding::Sound } else { network(pod, has_network).await }
}

/// Whether the listener listens, and each living shard accepts from it.
fn serves(pod: &Pod, kind: ListenerKind) -> bool {
    let listens =
        pod.listeners.sockets.lock().get(&kind).is_some_and(|listener| probe::is_listening(listener));
    listens && pod.listeners.accept_loops.count(kind) >= pod.node.shards.living()
}

/// Has the listener and its accept loops looked after by whom they belong to.
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
            // It never left: by a rule of the pod, or for want of ports or memory.
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
        // It is in the queue of whoever listens, and nobody but we and our successor do.
        Flight::Answered => Finding::Sound,
        Flight::Silent if is_flooded(pod) => Finding::Unclear,
        Flight::Silent => lost(family, "it does not arrive"),
        Flight::Refused(error) => lost(family, &error.to_string()),
    }
}

/// Whether connections wait in the outbound listener: the kernel drops what finds its queue full.
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
