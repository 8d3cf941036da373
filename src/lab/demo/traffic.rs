//! Traffic between two nodes: its arrival, the identities of both ends, and the bytes on the wire.

use std::{collections::BTreeMap, io::Stdout, net::SocketAddr};

use super::demo_mesh::{DemoMesh, MARKER, SOON, WEB, text};
use crate::lab::{
    apps::{
        capture::{Capture, Captured},
        http::Answer,
    },
    node::{Mark, field},
    show::{Evidence, FactResult, Show, number},
};

/// The port of HBONE tunnels.
const HBONE: u16 = 15008;
/// The number of requests to the service. The chance that only one of two replicas answers all of them is one in
/// 10^9.
const REQUESTS: usize = 32;

/// The evidence that the requests leave behind.
struct Exchanged {
    by_pod: Result<Vec<Answer>, String>,
    by_service: Result<Vec<Answer>, String>,
    captured: Result<Captured, String>,
    since: Mark,
}

/// Shows the traffic.
pub(super) fn show(demo_mesh: &mut DemoMesh, show: &mut Show<Stdout>) {
    show.section("Traffic from node one to node two");
    show.doing("sending requests and capturing what is on the wire");
    let exchanged = exchange(demo_mesh);
    show.fact("by pod address", exchanged.pods(demo_mesh));
    show.fact("by service address", exchanged.service(demo_mesh));
    show.fact("client address kept", exchanged.source(demo_mesh));
    show.doing("reading the access log");
    show.fact("mutual TLS", exchanged.identities(demo_mesh));
    show.fact("TLS on the wire", exchanged.wire(demo_mesh));
    show.fact("no plaintext", exchanged.no_marker());
}

fn exchange(demo_mesh: &DemoMesh) -> Exchanged {
    let since = demo_mesh.two.mark();
    let client = &demo_mesh.cast.client;
    let get = |to: SocketAddr| demo_mesh.got(client, to);
    let capture =
        demo_mesh.namespace(client).and_then(|at| Capture::start(&at, MARKER.as_bytes()).map_err(text));
    let by_pod = demo_mesh.cast.servers.iter().map(|server| get(server.at(WEB))).collect();
    let by_service = (0..REQUESTS).map(|_| get(demo_mesh.cast.service)).collect();
    let captured = capture.and_then(|capture| capture.finish().map_err(text));
    Exchanged { by_pod, by_service, captured, since }
}

// === impl Exchanged ===

impl Exchanged {
    fn pods(&self, demo_mesh: &DemoMesh) -> FactResult {
        let answers = self.by_pod.as_ref().map_err(Clone::clone)?;
        let mut seen = Vec::new();
        for (server, answer) in demo_mesh.cast.servers.iter().zip(answers) {
            if pod_of(answer) != server.name || answer.status != 200 {
                return Err(format!("{} answered {} {}", server.at(WEB), answer.status, answer.body.trim()));
            }
            seen.push(format!("{} answered 200 as {}", server.at(WEB), server.name));
        }
        Ok(Evidence::new(seen.join(", ")))
    }

    fn service(&self, demo_mesh: &DemoMesh) -> FactResult {
        let answers = self.by_service.as_ref().map_err(Clone::clone)?;
        let mut counts = BTreeMap::new();
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            *counts.entry(pod_of(answer)).or_insert(0_usize) += 1;
        }
        let seen: Vec<String> = counts.iter().map(|(pod, count)| format!("{pod} answered {count}")).collect();
        let text = format!("{} requests to {}: {}", answers.len(), demo_mesh.cast.service, seen.join(", "));
        let expected: Vec<&str> = demo_mesh.cast.servers.iter().map(|server| server.name.as_str()).collect();
        let complete = counts.values().sum::<usize>() == REQUESTS && counts.keys().copied().eq(expected);
        if complete { Ok(Evidence::new(text)) } else { Err(text) }
    }

    fn source(&self, demo_mesh: &DemoMesh) -> FactResult {
        let answers = self.by_pod.iter().chain(&self.by_service).flatten();
        let client = demo_mesh.cast.client.ip;
        let mut count = 0;
        for answer in answers {
            let seen = client_of(answer).map(|seen| seen.ip());
            if seen != Some(client) {
                return Err(format!("a server saw another client than {client}: {}", answer.body.trim()));
            }
            count += 1;
        }
        match count {
            0 => Err("there was no answer".to_owned()),
            _ => Ok(Evidence::new(format!(
                "the servers saw {client}, the client's own, in {count} of {count}"
            ))),
        }
    }

    fn identities(&self, demo_mesh: &DemoMesh) -> FactResult {
        let (client, server) = (&demo_mesh.cast.client, &demo_mesh.cast.servers[0]);
        let line = demo_mesh.two.access(self.since, SOON, |line| {
            field(line, "direction") == "inbound"
                && field(line, "src.workload") == client.name
                && field(line, "dst.workload") == server.name
        })?;
        let (src, dst) = (field(&line, "src.identity"), field(&line, "dst.identity"));
        let text = format!("{src} -> {dst}");
        if (src, dst) != (client.identity.as_str(), server.identity.as_str()) {
            return Err(format!("{text} (access log of node two)"));
        }
        let at = (field(&line, "src.addr"), field(&line, "dst.addr"));
        Ok(Evidence::new(text).detail(format!("access log of node two, inbound, {} -> {}", at.0, at.1)))
    }

    fn wire(&self, demo_mesh: &DemoMesh) -> FactResult {
        let captured = self.complete()?;
        let (mut flows, mut bytes, mut records) = (0, 0, 0);
        for server in &demo_mesh.cast.servers {
            for flow in captured.between(demo_mesh.cast.client.ip, server.ip) {
                if !flow.is_tls || ![flow.from.port(), flow.to.port()].contains(&HBONE) {
                    return Err(format!("not TLS to port {HBONE}: {flow:?}"));
                }
                (flows, bytes, records) = (flows + 1, bytes + flow.bytes, records + flow.records);
            }
        }
        if flows < 2 * demo_mesh.cast.servers.len() || records == 0 {
            return Err(format!("only {flows} flows with {records} TLS records were captured"));
        }
        let (bytes, records) = (number(bytes), number(records));
        let text = format!("captured: {flows} flows, all to or from port {HBONE}, {bytes} bytes");
        Ok(Evidence::new(format!("{text}, all of it in {records} TLS records")))
    }

    fn no_marker(&self) -> FactResult {
        let captured = self.complete()?;
        let answers: Vec<&Answer> = self.by_pod.iter().chain(&self.by_service).flatten().collect();
        let arrived = answers.iter().filter(|answer| answer.body.contains(MARKER)).count();
        if captured.has_marker() {
            return Err(format!("{MARKER:?} was on the wire"));
        }
        if arrived == 0 || arrived != answers.len() {
            return Err(format!("{arrived} of {} answers hold {MARKER:?}", answers.len()));
        }
        Ok(Evidence::new(format!("{MARKER:?} is in all {arrived} answers, and nowhere in the capture")))
    }

    /// The capture, if it is complete, so that an absence is a proof.
    fn complete(&self) -> Result<&Captured, String> {
        let captured = self.captured.as_ref().map_err(Clone::clone)?;
        if captured.is_complete() { Ok(captured) } else { Err("the capture missed packets".to_owned()) }
    }
}

/// The pod that answered.
fn pod_of(answer: &Answer) -> &str {
    answer.body.strip_prefix("pod=").and_then(|rest| rest.split([' ', '\n']).next()).unwrap_or_default()
}

/// The client address that the server saw.
fn client_of(answer: &Answer) -> Option<SocketAddr> {
    answer.body.trim_end().rsplit_once("client=")?.1.parse().ok()
}

#[cfg(test)]
mod tests;
