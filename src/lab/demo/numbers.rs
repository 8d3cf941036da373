//! Compares the counters of both proxies with each other and with the demo's own actions.

use std::io::Stdout;

use super::demo_mesh::{DemoMesh, SOON};
use crate::lab::{
    node::{Samples, wait},
    show::{Evidence, FactResult, Show, number},
};

const OPENED: &str = "istio_tcp_connections_opened_total";
const CLOSED: &str = "istio_tcp_connections_closed_total";
const FAILED: &str = "istio_tcp_connections_failed_total";
const RECEIVED: &str = "istio_tcp_received_bytes_total";
const SENT: &str = "istio_tcp_sent_bytes_total";
const RESTARTS: &str = "warren_actor_restarts_total";
const PANICS: &str = "warren_panics_total";

const DENIED: &str = "response_flags=\"DENY\"";
/// The actors of node one that were killed, once each.
const KILLED: [&str; 3] = ["tunnel", "xds", "capture"];

/// Shows the counters.
pub(super) fn show(demo_mesh: &mut DemoMesh, show: &mut Show<Stdout>) {
    show.section("What the proxies counted");
    show.doing("reading the metrics");
    let samples = match settled(demo_mesh) {
        Ok(samples) => samples,
        Err(error) => {
            show.fact("metrics", Err(error));
            return;
        }
    };
    show.table(rows(&samples));
    show.fact("connections", connections(&samples));
    show.fact("restarts", restarts(&samples));
}

/// The metrics of both nodes once every connection is closed. The last connections end a moment after their clients.
fn settled(demo_mesh: &DemoMesh) -> Result<[Samples; 2], String> {
    let mut last = None;
    let found = wait(SOON, || {
        let samples = [demo_mesh.one.metrics()?, demo_mesh.two.metrics()?];
        let closed = samples.iter().all(|samples| samples.sum(OPENED, &[]) == samples.sum(CLOSED, &[]));
        last = Some(samples.clone());
        if closed { Ok(samples) } else { Err("not every connection was closed".to_owned()) }
    });
    // The table shows the last metrics even if they have not settled.
    found.or_else(|error| last.ok_or(error))
}

fn rows(samples: &[Samples; 2]) -> Vec<(&'static str, Vec<String>)> {
    let row = |name: &'static str, family: &str, labels: &[&str]| {
        (name, samples.iter().map(|samples| number(samples.sum(family, labels))).collect())
    };
    vec![
        ("", vec!["node one".to_owned(), "node two".to_owned()]),
        row("connections opened", OPENED, &[]),
        row("connections closed", CLOSED, &[]),
        row("connections failed", FAILED, &[]),
        row("  of these denied by a rule", FAILED, &[DENIED]),
        row("bytes from clients to servers", RECEIVED, &[]),
        row("bytes from servers to clients", SENT, &[]),
        row("actors started again", RESTARTS, &[]),
    ]
}

fn connections(samples: &[Samples; 2]) -> FactResult {
    let [one, two] = samples;
    let count = |samples: &Samples| (samples.sum(OPENED, &[]), samples.sum(CLOSED, &[]));
    let (first, second) = (count(one), count(two));
    let text = format!("every one opened was closed: {} and {}", number(first.1), number(second.1));
    if first.0 == first.1 && second.0 == second.1 && first.0 > 0 && second.0 > 0 {
        return Ok(Evidence::new(text));
    }
    Err(format!("opened and closed differ: {first:?} on node one, {second:?} on node two"))
}

fn restarts(samples: &[Samples; 2]) -> FactResult {
    let [one, two] = samples;
    let of = |samples: &Samples, kind: &str| samples.sum(RESTARTS, &[&format!("kind=\"{kind}\"")]);
    let seen: Vec<String> = KILLED.iter().map(|kind| format!("{kind} {}", of(one, kind))).collect();
    let panics = one.sum(PANICS, &[]) + two.sum(PANICS, &[]);
    let text = format!("on node one {}; on node two {}", seen.join(", "), two.sum(RESTARTS, &[]));
    let text = format!("{text}; panics {panics}");
    let as_done = KILLED.iter().all(|kind| of(one, kind) == 1);
    let nothing_else = one.sum(RESTARTS, &[]) == KILLED.len() as u64 && two.sum(RESTARTS, &[]) == 0;
    if as_done && nothing_else && panics == 0 { Ok(Evidence::new(text)) } else { Err(text) }
}
