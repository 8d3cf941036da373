//! The sections of `/live`: pods, connections and tunnels as they are now, and the process.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    admin::{
        cut::EndConnection,
        dump::{Content, Dump, DumpFilter, Gather},
    },
    control::zds::ZdsStatus,
    pods::{Pods, pod::Pod},
};
use crate::{
    dataplane::pod::conns::{ConnInfo, PeerTunnel, TunnelInfo, cut},
    protocols::{
        labels::Reporter,
        mesh::{Mesh, Workload},
    },
    runtime::conns::{Conn, ConnId},
    sys::{coarse_clock, memory},
    telemetry::events::EventKind,
};

/// Limit: names of pods in the answer to an unknown one: 20; past it: the others are left out.
const PODS_NAMED: usize = 20;
/// Limit: connections or tunnels that `/live` shows: 100,000; past it: the others are left out.
const ROWS_SHOWN: usize = 100_000;

/// The parts of the process that are shown. A clone is cheap.
#[derive(Clone)]
pub(crate) struct LiveSources {
    /// The tables, in which peers are looked up.
    pub(crate) mesh: Mesh,
    /// The pods and their connections.
    pub(crate) pods: Pods,
    /// The pods that are not served yet. A proxy for one workload has none.
    pub(crate) zds: Option<watch::Receiver<ZdsStatus>>,
    /// The start of the process.
    pub(crate) started: Instant,
}

// === impl LiveSources ===

impl LiveSources {
    /// What `/live` shows.
    pub(crate) fn dump(self) -> Dump {
        let of = |gather: fn(&Self, &DumpFilter) -> Content| -> Gather {
            let sources = self.clone();
            Arc::new(move |filter| gather(&sources, filter))
        };
        let sections = vec![
            ("connections", of(Self::connections)),
            ("pods", of(Self::pods)),
            ("process", of(Self::process)),
            ("tunnels", of(Self::tunnels)),
        ];
        Dump::new(sections, Arc::new(move |filter| self.refuse(filter)))
    }

    /// The live connection of an id, with its pod.
    fn connection(&self, id: &str) -> Option<(Arc<Pod>, Conn<ConnInfo>)> {
        let (serial, id) = id.split_once('-')?;
        let (serial, id) = (serial.parse::<u64>().ok()?, id.parse::<ConnId>().ok()?);
        let pod = self.pods.all().into_iter().find(|pod| pod.id.serial == serial)?;
        let conn = pod.conns().live.find(id)?;
        Some((pod, conn))
    }

    /// Ends the live connection of an id, for an operator.
    pub(crate) fn end(self) -> EndConnection {
        Arc::new(move |id| {
            let (pod, conn) = self.connection(id)?;
            let (name, info) = (pod.id.name(), conn.info());
            let shown = format!("{} to {} of {name}", info.src, info.dst);
            self.pods
                .node()
                .metrics
                .events
                .tell(EventKind::Operator, Some(&name), || format!("{shown} is cut"));
            conn.cut(cut::OPERATOR);
            Some(shown)
        })
    }

    /// Says which pods there are, if the filter names none.
    fn refuse(&self, filter: &DumpFilter) -> Option<String> {
        let wanted = filter.workload.as_deref()?;
        let mut names: Vec<String> = self.pods.all().iter().map(|pod| pod.id.name().to_string()).collect();
        if names.iter().any(|name| name == wanted) {
            return None;
        }
        names.sort_unstable();
        let more = names.len().saturating_sub(PODS_NAMED);
        names.truncate(PODS_NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Some(format!("no pod {wanted:?}; pods of this node: {}{more}", names.join(", ")))
    }

    /// The pods that the filter lets through, by name.
    fn chosen(&self, filter: &DumpFilter) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.all();
        if let Some(wanted) = filter.workload.as_deref() {
            pods.retain(|pod| *pod.id.name() == *wanted);
        }
        pods.sort_by_cached_key(|pod| pod.id.name());
        pods
    }

    fn pods(&self, filter: &DumpFilter) -> Content {
        let unhealthy = self.pods.unhealthy();
        let pods = self.chosen(filter).into_iter();
        let mut rows: Vec<Value> =
            pods.map(|pod| served(&pod, unhealthy.get(&pod.id.uid).map(ToString::to_string))).collect();
        let pending = self.zds.as_ref().map(|zds| zds.borrow().session.pending.clone()).unwrap_or_default();
        for pending in pending {
            let name = pending.name.clone().unwrap_or_default();
            if filter.workload.as_deref().is_none_or(|wanted| *wanted == *name) {
                rows.push(json!({"name": &*name, "uid": &*pending.uid, "state": "pending"}));
            }
        }
        Content::List(Box::new(rows.into_iter()))
    }

    fn connections(&self, filter: &DumpFilter) -> Content {
        let (mesh, peer) = (self.mesh.clone(), filter.peer.clone());
        let rows = self.chosen(filter).into_iter().flat_map(move |pod| {
            let mut rows = Vec::new();
            pod.conns().live.for_each(|conn| rows.push(connection(&mesh, &pod, conn)));
            rows.retain(|row| is_of(row, peer.as_deref()));
            rows
        });
        Content::List(Box::new(rows.take(ROWS_SHOWN)))
    }

    fn tunnels(&self, filter: &DumpFilter) -> Content {
        let (mesh, peer) = (self.mesh.clone(), filter.peer.clone());
        let rows = self.chosen(filter).into_iter().flat_map(move |pod| {
            let (mut rows, conns) = (Vec::new(), pod.conns());
            conns.dialled.for_each(|conn| rows.push(tunnel(&mesh, &pod, conn, "dialled")));
            conns.peers.for_each(|conn: &Conn<PeerTunnel>| rows.push(tunnel(&mesh, &pod, conn, "accepted")));
            rows.retain(|row| is_of(row, peer.as_deref()));
            rows
        });
        Content::List(Box::new(rows.take(ROWS_SHOWN)))
    }

    fn process(&self, _: &DumpFilter) -> Content {
        let shards = &self.pods.node().shards;
        let shown = shards.loads().enumerate().map(|(index, load)| {
            let (conns, tunnels) = (load.conns.load(Relaxed), load.tunnels.load(Relaxed));
            let cpu = shards.balance().used(index).as_secs_f64();
            json!({"shard": index, "connections": conns, "tunnels": tunnels, "cpuSeconds": cpu})
        });
        Content::Value(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptimeSeconds": seconds(self.started.elapsed()),
            "residentBytes": memory::resident(),
            "shards": shown.collect::<Value>(),
            "workloads": self.mesh.workload_count(),
            "services": self.mesh.service_count(),
        }))
    }
}

/// A pod that is served.
fn served(pod: &Pod, unhealthy: Option<String>) -> Value {
    let conns = pod.conns();
    let (mut inbound, mut outbound) = (0_u64, 0_u64);
    let totals = pod.reading().totals;
    conns.live.for_each(|conn| {
        let info = conn.info();
        match info.reporter {
            Reporter::Destination => inbound += 1,
            Reporter::Source => outbound += 1,
        }
    });
    let workload = pod.inbound.pod.now_or_last();
    let addresses = workload.iter().flat_map(|workload| workload.addresses()).map(ToString::to_string);
    json!({
        "name": &*pod.id.name(),
        "uid": &*pod.id.uid,
        "serviceAccount": pod.id.info.service_account,
        "state": if unhealthy.is_some() { "unhealthy" } else { "up" },
        "detail": unhealthy,
        "addresses": addresses.collect::<Value>(),
        "inbound": inbound,
        "outbound": outbound,
        "dialled": conns.dialled.len(),
        "accepted": conns.peers.len(),
        "opened": totals.connections,
        "received": totals.received,
        "sent": totals.sent,
        "cpuSeconds": totals.busy.as_secs_f64(),
    })
}

/// The row of a connection.
pub(super) fn connection(mesh: &Mesh, pod: &Pod, conn: &Conn<ConnInfo>) -> Value {
    let (info, hop) = (conn.info(), *conn.info().next_hop.lock());
    let is_tunnelled = hop.is_some_and(|hop| hop.protocol != "TCP") || info.identity.is_some();
    let path = match () {
        () if info.carried.is_local() => "local",
        () if is_tunnelled => "tunnel",
        () if info.reporter == Reporter::Source && hop.is_none() => "opening",
        () => "plaintext",
    };
    let (direction, peer_ip) = match info.reporter {
        Reporter::Source => ("outbound", hop.map_or(info.dst.ip(), |hop| hop.addr.ip())),
        Reporter::Destination => ("inbound", info.src.ip()),
    };
    let peer = workload(mesh, peer_ip);
    let identity = info.identity.as_ref().map(ToString::to_string);
    let expected = peer.as_ref().filter(|_| is_tunnelled).map(|peer| peer.identity().to_string());
    json!({
        "id": format!("{}-{}", pod.id.serial, conn.id()),
        "pod": &*pod.id.name(),
        "direction": direction,
        "source": info.src.to_string(),
        "destination": info.dst.to_string(),
        "nextHop": hop.map(|hop| hop.addr.to_string()),
        "path": path,
        "peer": peer.as_deref().map(Workload::full_name),
        "identity": identity.or(expected),
        "host": info.host.as_deref(),
        "shard": conn.id().shard,
        "ageSeconds": seconds(conn.age()),
        "idleSeconds": info.carried.idle(coarse_clock::now()).map(seconds),
        "received": info.carried.received(),
        "sent": info.carried.sent(),
    })
}

/// The row of a tunnel.
pub(super) fn tunnel<T: AsRef<TunnelInfo>>(mesh: &Mesh, pod: &Pod, conn: &Conn<T>, direction: &str) -> Value {
    let info: &TunnelInfo = conn.info().as_ref();
    json!({
        "pod": &*pod.id.name(),
        "direction": direction,
        "address": info.peer.to_string(),
        "peer": workload(mesh, info.peer.ip()).as_deref().map(Workload::full_name),
        "state": if info.is_up() { "up" } else { "opening" },
        "identity": info.identity().map(ToString::to_string),
        "shard": conn.id().shard,
        "ageSeconds": seconds(conn.age()),
    })
}

/// Whether a row is about a peer: by a part of its name, address or identity.
fn is_of(row: &Value, peer: Option<&str>) -> bool {
    let Some(peer) = peer else { return true };
    let has = |field: &str| row.get(field).and_then(Value::as_str).is_some_and(|text| text.contains(peer));
    ["peer", "address", "identity", "source", "destination", "nextHop", "host"].into_iter().any(has)
}

fn workload(mesh: &Mesh, ip: IpAddr) -> Option<Arc<Workload>> {
    mesh.workload_by_ip(&mesh.local().network, ip)
}

/// Seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}
