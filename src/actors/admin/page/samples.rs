//! What the tests of the page show.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::view::{
    AgentView, CertificateView, DiscoveryView, Listed, ListenerView, PodCounts, PodState, PodView,
    ProcessView, QuarantinedView, ShardView, SourcesView, View,
};
use crate::{
    supervisor::{ExitNote, Load, NodeKind, NodeSnapshot, NodeState},
    telemetry::events::{Event, EventKind},
};

/// A text that would be a program if it were not escaped.
pub(in crate::actors::admin) const NASTY: &str =
    "</title></td><script>alert('x')</script>\"onload=\"x&\u{202e}\n";

/// The time of all samples.
pub(in crate::actors::admin) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A pod that is served.
pub(in crate::actors::admin) fn pod(name: &str) -> PodView {
    PodView {
        serial: Some(1),
        name: name.to_owned(),
        state: PodState::Up,
        detail: None,
        addresses: vec!["10.0.0.1".to_owned()],
        listeners: vec![ListenerView { name: "outbound", port: 15001, open: true }],
        counts: PodCounts::default(),
    }
}

/// A node of the tree that is up.
pub(in crate::actors::admin) fn node(path: &str, children: Vec<NodeSnapshot>) -> NodeSnapshot {
    let id = path.rsplit('/').next().unwrap_or_default();
    NodeSnapshot {
        path: path.into(),
        id: id.into(),
        shown_as: None,
        kind_label: "kind",
        kind: if children.is_empty() { NodeKind::Worker } else { NodeKind::Supervisor },
        state: NodeState::Up,
        restarts: 0,
        last_exit: None,
        load: Load {
            depth: 0,
            oldest: Duration::ZERO,
            handled: 0,
            busy: Duration::ZERO,
            longest: None,
            handling: None,
        },
        children,
    }
}

/// A proxy with which all is well.
pub(in crate::actors::admin) fn well() -> View {
    let hour = Duration::from_secs(3600);
    View {
        at: now(),
        process: ProcessView {
            name: "one".to_owned(),
            uptime: Duration::from_secs(90_061),
            resident: Some(12_000_000),
            shards: vec![ShardView { connections: 1, tunnels: 1, used: Duration::from_millis(1500) }],
            workloads: 7,
            services: 3,
        },
        pending: Vec::new(),
        sources: SourcesView {
            discovery: Some(DiscoveryView { synced: true, connected: true, since: hour, last_error: None }),
            agent: Some(AgentView { connected: true, says: "connected".to_owned() }),
        },
        pods: vec![pod("shop/web")],
        connections: Listed::default(),
        tunnels: Listed::default(),
        certificates: vec![certificate("spiffe://x/ns/shop/sa/web", 12 * hour, 12 * hour)],
        quarantined: Vec::new(),
        events: Vec::new(),
        tree: vec![node("root", vec![node("root/certs", Vec::new())])],
    }
}

/// A certificate of this age that has so much time left.
pub(in crate::actors::admin) fn certificate(
    identity: &str,
    age: Duration,
    left: Duration,
) -> CertificateView {
    CertificateView { identity: identity.to_owned(), valid: Some((now() - age, now() + left)), failure: None }
}

/// A proxy about which every text is [`NASTY`].
pub(in crate::actors::admin) fn nasty() -> View {
    let text = || NASTY.to_owned();
    let mut view = well();
    let crashed = NodeSnapshot {
        shown_as: Some(NASTY.into()),
        state: NodeState::Quarantined,
        restarts: 3,
        last_exit: Some(ExitNote { at: now(), reason: text() }),
        ..node(NASTY, Vec::new())
    };
    let row = json!({
        "id": NASTY, "pod": NASTY, "direction": NASTY, "source": NASTY, "destination": NASTY, "nextHop": NASTY,
        "path": NASTY, "peer": NASTY, "identity": NASTY, "address": NASTY, "state": NASTY, "ageSeconds": 1.0,
    });
    view.process.name = text();
    view.pending = vec![text()];
    view.sources = SourcesView {
        discovery: Some(DiscoveryView {
            synced: false,
            connected: false,
            since: Duration::from_secs(5),
            last_error: Some(text()),
        }),
        agent: Some(AgentView { connected: false, says: text() }),
    };
    view.pods = [PodState::Out, PodState::Pending, PodState::Up]
        .map(|state| PodView { state, detail: Some(text()), addresses: vec![text()], ..pod(NASTY) })
        .to_vec();
    view.connections = Listed { rows: vec![row.clone()], all: 1 };
    view.tunnels = Listed { rows: vec![row], all: 1 };
    view.certificates = vec![CertificateView { identity: text(), valid: None, failure: Some(text()) }];
    view.quarantined = vec![QuarantinedView { kind: text(), name: text(), crashes: 2, retry_in: None }];
    view.events = vec![Event {
        number: 1,
        at: now(),
        kind: EventKind::Denial,
        pod: Some(NASTY.into()),
        says: NASTY.into(),
    }];
    view.tree = vec![node("root", vec![crashed])];
    view
}
