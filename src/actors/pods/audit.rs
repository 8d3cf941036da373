//! The audit of a pod: finds what no actor crashed over. Its listeners listen and are accepted from on every shard, its
//! namespace has a network, and an ordinary connection of the pod still reaches the proxy. What can be repaired is; what
//! cannot is named in readiness, metrics and log.
//!
//! The canary is one connection from inside the pod, without our mark, to an address that no network has. The pod's own
//! rules must turn it to 15001, where it is known by that address and dropped before anything is counted or logged. With
//! the rules gone it is one packet with a hop limit of 1, which the node itself drops. The way in (PREROUTING) cannot be
//! tried from inside: what a pod sends to itself never passes there. Both ways are rules of one table, which come and go
//! together.
//!
//! A canary costs a connection for each family. So what came out well is known for a while, as long as what can be asked
//! cheaply is as it was: the listeners listen, the shards accept, the interface is up, and the kernel says that the rules
//! are those that the canary came by.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::{Instant, timeout};

use super::{
    pod::Pod,
    trouble::{Reason, Trouble},
};
use crate::{
    actors::{
        capture::{Kind, Msg as Ask},
        settings::HUNG_AFTER,
        sys::{
            probe::{self, Canary, Flight},
            pulse::Pulse,
        },
    },
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, OwnedTask},
};

/// A pod is audited this often, give or take [`JITTER`].
const EVERY: Duration = Duration::from_secs(1);
/// A pod in which nothing has changed is examined this often all the same, give or take [`JITTER`]: for what changes
/// without a trace.
const THOROUGH: Duration = Duration::from_secs(30);
/// Audits of all pods in a second, at most; with more pods than that each waits longer.
const AUDITS_A_SECOND: u32 = 500;
/// Audits drift apart by this much.
const JITTER: f64 = 0.1;
/// How long a capture may take to look after itself; its restart is waited for meanwhile.
const CAPTURE_WITHIN: Duration = Duration::from_millis(500);
/// How long a canary may fly. The kernel answers at once or never; only its acceptance takes a turn of a shard.
const FLIGHT: Duration = Duration::from_millis(300);
/// Canaries lost in a row until the redirection is.
const CANARIES: u32 = 2;

struct Audit(Arc<Pod>);

/// The actor has no messages but the end of its look-out.
enum Msg {
    /// It is gone. Sent at most once.
    Lost,
}

/// What was so when all was well.
struct Known {
    /// Of its network; the proxy's own pod has no rules, and the host's network.
    pulse: Option<Pulse>,
    until: Instant,
}

/// What an audit found.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// All is well.
    Sound,
    /// It could not be tried now: what was known stays.
    Unclear,
    /// This is wrong.
    Wrong(Trouble),
}

/// The actor that audits `pod`.
pub fn child(pod: &Arc<Pod>) -> ChildSpec {
    let pod = pod.clone();
    let make = move || (Audit(pod.clone()), ());
    ChildSpec::actor("audit", &Address::new("audit"), make).kind_label("audit").hung_after(HUNG_AFTER)
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Lost => "lost",
        }
    }
}

impl Actor for Audit {
    type Msg = Msg;
    type State = OwnedTask;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        let lost = move |_| drop(myself.cast(Msg::Lost));
        Ok(OwnedTask::spawn("audit/look", look(self.0.clone()), lost))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Lost: Msg,
        _: &mut OwnedTask,
    ) -> Result<(), ActorProcessingErr> {
        Err("the audits of the pod ended".into())
    }
}

/// Audits until the pod drains: from then on it is to have no listeners.
async fn look(pod: Arc<Pod>) {
    let troubles = &pod.node.troubles;
    let _audited = troubles.audited();
    let mut rng = SmallRng::from_os_rng();
    let mut draining = pod.draining.subscribe();
    // Pods that came at once are not audited at once.
    let mut pause = pause(troubles.pods()).mul_f64(rng.random());
    let mut known = None::<Known>;
    while timeout(pause, draining.wait_for(|draining| *draining)).await.is_err() {
        let drift = rng.random_range(1.0 - JITTER..1.0 + JITTER);
        pause = self::pause(troubles.pods()).mul_f64(drift);
        if known.as_ref().is_some_and(|known| known.holds(&pod)) {
            continue;
        }
        // Taken before, so that what changes meanwhile is a change.
        let before = Known::now(&pod, THOROUGH.mul_f64(drift));
        let finding = examine(&pod).await;
        known = before.filter(|_| finding == Finding::Sound);
        match finding {
            Finding::Unclear => {}
            _ if *pod.draining.borrow() => {}
            Finding::Sound => troubles.tell(&pod, None),
            Finding::Wrong(trouble) => troubles.tell(&pod, Some(trouble)),
        }
    }
    std::future::pending().await
}

// === impl Known ===

impl Known {
    /// How the pod is now; none where a change would not show.
    fn now(pod: &Pod, lasts: Duration) -> Option<Self> {
        let until = Instant::now() + lasts;
        if pod.is_own {
            return Some(Self { pulse: None, until });
        }
        let listeners = pod.listeners.lock();
        let listener = listeners.get(&Kind::Outbound)?;
        let pulse = pod.netns.enter(|| Pulse::take(listener)).and_then(|taken| taken).ok()??;
        Some(Self { pulse: Some(pulse), until })
    }

    /// Whether the pod is still so.
    fn holds(&self, pod: &Pod) -> bool {
        let listeners = pod.listeners.lock();
        let serves = |kind: &Kind| {
            let shards = pod.node.shards.living();
            pod.captures.accepting(*kind) >= shards && listeners.get(kind).is_some_and(probe::is_listening)
        };
        let steady =
            |pulse: &Pulse| listeners.get(&Kind::Outbound).is_some_and(|listener| pulse.is_steady(listener));
        Instant::now() < self.until
            && pod.kinds().iter().all(serves)
            && self.pulse.as_ref().is_none_or(steady)
    }
}

/// From one audit of a pod to the next, when so many are audited.
fn pause(pods: usize) -> Duration {
    let pods = u32::try_from(pods).unwrap_or(u32::MAX);
    EVERY.max(Duration::from_secs(1) * pods / AUDITS_A_SECOND)
}

async fn examine(pod: &Arc<Pod>) -> Finding {
    for &kind in pod.kinds() {
        if let Err(why) = capture(pod, kind).await {
            let detail = format!("port {} ({}): {why}", kind.port(), kind.name());
            return Finding::Wrong(Trouble::new(Reason::Listener, detail));
        }
    }
    // The proxy's own pod has no rules, and the host's network.
    if pod.is_own { Finding::Sound } else { network(pod).await }
}

/// Has the listener and its accept loops looked after by whom they belong to.
async fn capture(pod: &Pod, kind: Kind) -> Result<(), String> {
    let looked = pod.captures.of(kind).call(CAPTURE_WITHIN, Ask::Audit).await;
    let repaired = looked.map_err(|error| error.to_string())??;
    if let Some(what) = repaired {
        pod.node.metrics.pods.repaired(what.as_str());
        let (kind, uid) = (kind.name(), &*pod.uid);
        tracing::warn!(target: "audit", uid, pod = %pod.name(), kind, what = what.as_str(), "repaired");
    }
    Ok(())
}

/// Tries the pod's network and redirection.
async fn network(pod: &Arc<Pod>) -> Finding {
    let mut found = Finding::Unclear;
    for _ in 0..CANARIES {
        found = try_once(pod).await;
        if !matches!(found, Finding::Wrong(_)) {
            break;
        }
    }
    found
}

async fn try_once(pod: &Arc<Pod>) -> Finding {
    let ipv6 = pod.node.settings.ipv6;
    let sent = pod.netns.enter(|| {
        let network = probe::network();
        (network, Canary::send(false), if ipv6 { Canary::send(true) } else { Ok(None) })
    });
    let (network, v4, v6) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            let detail = format!("its network namespace cannot be entered: {error}");
            return Finding::Wrong(Trouble::new(Reason::Network, detail));
        }
    };
    if matches!(network, Ok(None)) {
        let detail = "its network namespace has no interface that is up, other than loopback";
        return Finding::Wrong(Trouble::new(Reason::Network, detail));
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
    if timeout(FLIGHT, pod.canaries.arrival(canary.from())).await.is_ok() {
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
    let listeners = pod.listeners.lock();
    let waiting = listeners.get(&Kind::Outbound).map(probe::waiting);
    waiting.is_some_and(|waiting| waiting.is_ok_and(|waiting| waiting.now > 0))
}

fn lost(family: &str, why: &str) -> Finding {
    let detail = format!("{family} connections are not redirected to port {}: {why}", Kind::Outbound.port());
    Finding::Wrong(Trouble::new(Reason::Redirection, detail))
}

/// Whether a connection captured on 15001 is a canary of `pod`, or of another proxy that serves it meanwhile. It must be
/// dropped then, unseen.
pub fn is_canary(pod: &Pod, from: SocketAddr, to: SocketAddr) -> bool {
    let is = to == probe::target(to.is_ipv6());
    if is {
        pod.canaries.arrived(from);
    }
    is
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pods_are_audited_less_often_and_never_faster_than_the_bound() {
        assert_eq!(pause(1), EVERY);
        assert_eq!(pause(500), EVERY);
        assert_eq!(pause(4096), Duration::from_millis(8192));
    }
}
