//! The sections of the page that are tables.

use serde_json::Value;

use super::{
    cells::{Column, Table, Tone, badge, cell, date, nothing, per_second, span},
    findings::all,
    html::Html,
    rates::{Measured, Rate},
    view::{CertificateView, Listed, PodState, PodView, View},
};
use crate::{
    actors::admin::rows::{bytes, number, text},
    supervisor::{NodeSnapshot, NodeState},
};

/// Limit: pods that the page shows: 50, those in trouble and those with the most connections; past it: the page says
/// how many more there are.
const PODS: usize = 50;
/// Limit: certificates that the page shows: 30, those that expire first; past it: the page says how many more there are.
const CERTIFICATES: usize = 30;
/// Limit: quarantined inputs and actors that the page shows: 30; past it: the page says how many more there are.
const QUARANTINED: usize = 30;

/// The pods with their listeners, connections and rates.
pub(super) fn pods(view: &View, measured: &Measured) -> Html {
    const COLUMNS: [Column; 8] = [
        ("Pod", false),
        ("State", false),
        ("Listeners", false),
        ("Connections", true),
        ("Tunnels", true),
        ("New", true),
        ("To servers", true),
        ("To clients", true),
    ];
    let mut html = Html::default();
    if view.pods.is_empty() {
        nothing(&mut html, "No pod is served.");
        return html;
    }
    let mut pods: Vec<&PodView> = view.pods.iter().collect();
    pods.sort_by_key(|pod| (pod.state, std::cmp::Reverse(pod.live())));
    pods.truncate(PODS);
    pods.sort_by_key(|pod| (pod.state, &pod.name));
    let mut table = Table::begin(&mut html, "Pods of this node", &COLUMNS);
    for pod in &pods {
        let rate = pod.serial.and_then(|serial| measured.pods.get(&serial));
        let of = |of: fn(&Rate) -> String| cell(rate.map_or_else(|| "–".to_owned(), of));
        let (tone, word) = match pod.state {
            PodState::Out => (Tone::Bad, "out of the mesh"),
            PodState::Pending => (Tone::Notable, "pending"),
            PodState::Up => (Tone::Good, "up"),
        };
        let counts = &pod.counts;
        let cells = [
            named(&pod.name, pod.detail.as_deref().unwrap_or(&pod.addresses.join(" "))),
            badge(tone, word),
            listeners(pod),
            cell(format_args!("{} in, {} out", counts.inbound, counts.outbound)),
            cell(counts.tunnels),
            of(|rate| per_second(rate.opened)),
            of(|rate| format!("{}/s", bytes(rate.received))),
            of(|rate| format!("{}/s", bytes(rate.sent))),
        ];
        table.row(format_args!("{} {}", pod.name, pod.serial.unwrap_or_default()), cells);
    }
    table.end(pods.len(), view.pods.len());
    html
}

/// The ports of a pod's listeners. One that is not open is named.
fn listeners(pod: &PodView) -> Html {
    let mut html = Html::default();
    for listener in &pod.listeners {
        html.put("<span class=\"port\">").text(listener.port);
        html.put("<span class=\"about\"> ").text(listener.name).put("</span>");
        if !listener.open {
            html.put(" ").join(&badge(Tone::Bad, "not open"));
        }
        html.put("</span> ");
    }
    if pod.listeners.is_empty() {
        html.put("none");
    }
    html
}

/// A name, and below it what else is known.
fn named(name: &str, about: &str) -> Html {
    let mut html = cell(name);
    if !about.is_empty() {
        html.put("<span class=\"about\">").text(about).put("</span>");
    }
    html
}

/// The live connections.
pub(super) fn connections(connections: &Listed<Value>) -> Html {
    const COLUMNS: [Column; 8] = [
        ("Pod", false),
        ("Direction", false),
        ("Peer", false),
        ("Path", false),
        ("To server", true),
        ("To client", true),
        ("Age", true),
        ("Idle", true),
    ];
    let mut html = Html::default();
    if connections.rows.is_empty() {
        nothing(&mut html, "No connection is live.");
        return html;
    }
    let mut table = Table::begin(&mut html, "Live connections, those that have carried the most", &COLUMNS);
    for row in &connections.rows {
        let (source, destination) = (text(row, "source"), text(row, "destination"));
        let time = |field: &str| match row.get(field) {
            Some(Value::Number(_)) => cell(duration(number(row, field))),
            _ => cell("–"),
        };
        let cells = [
            cell(text(row, "pod")),
            cell(text(row, "direction")),
            named(&peer(row, "nextHop"), &format!("{source} → {destination}")),
            badge(Tone::Plain, text(row, "path")),
            cell(bytes(number(row, "received"))),
            cell(bytes(number(row, "sent"))),
            time("ageSeconds"),
            time("idleSeconds"),
        ];
        table.row(text(row, "id"), cells);
    }
    table.end(connections.rows.len(), connections.all);
    html
}

/// The tunnels.
pub(super) fn tunnels(tunnels: &Listed<Value>) -> Html {
    const COLUMNS: [Column; 5] =
        [("Pod", false), ("Direction", false), ("Peer", false), ("State", false), ("Age", true)];
    let mut html = Html::default();
    if tunnels.rows.is_empty() {
        nothing(&mut html, "No tunnel is open.");
        return html;
    }
    let mut table = Table::begin(&mut html, "Tunnels, the newest first", &COLUMNS);
    for row in &tunnels.rows {
        let state = text(row, "state");
        let tone = if state == "up" { Tone::Good } else { Tone::Notable };
        let (pod, direction, address) = (text(row, "pod"), text(row, "direction"), text(row, "address"));
        let identity = text(row, "identity");
        let cells = [
            cell(&pod),
            cell(&direction),
            named(&peer(row, "address"), if identity.is_empty() { &address } else { &identity }),
            badge(tone, state),
            cell(duration(number(row, "ageSeconds"))),
        ];
        table.row(text(row, "id"), cells);
    }
    table.end(tunnels.rows.len(), tunnels.all);
    html
}

/// The peer of a row: its name, or else an address.
fn peer(row: &Value, address: &str) -> String {
    let names = [text(row, "peer"), text(row, address), text(row, "destination")];
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

fn duration(seconds: f64) -> String {
    span(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The certificates, those that expire first.
pub(super) fn certificates(view: &View) -> Html {
    const COLUMNS: [Column; 4] = [("Identity", false), ("State", false), ("Expires in", true), ("At", true)];
    let mut html = Html::default();
    if view.certificates.is_empty() {
        nothing(&mut html, "No certificate is held.");
        return html;
    }
    let mut sorted: Vec<&CertificateView> = view.certificates.iter().collect();
    sorted.sort_by_key(|of| (of.state(view.at).1, of.valid.map(|(_, end)| end), &of.identity));
    sorted.truncate(CERTIFICATES);
    let mut table = Table::begin(&mut html, "Certificates, those that expire first", &COLUMNS);
    for certificate in &sorted {
        let (word, usable) = certificate.state(view.at);
        let tone = match (usable, certificate.valid, &certificate.failure) {
            (false, ..) => Tone::Bad,
            (true, Some(_), None) => Tone::Good,
            (true, ..) => Tone::Notable,
        };
        let left = certificate.valid.and_then(|(_, end)| end.duration_since(view.at).ok());
        // The trust domain is the same almost everywhere, and what follows is looked for.
        let (domain, name) = match certificate.identity.split_once("/ns/") {
            Some((domain, name)) => (domain, name),
            None => ("", certificate.identity.as_str()),
        };
        let cells = [
            named(name, certificate.failure.as_deref().unwrap_or(domain)),
            badge(tone, word),
            cell(left.map_or_else(|| "–".to_owned(), span)),
            certificate.valid.map_or_else(|| cell("–"), |(_, end)| date(end)),
        ];
        table.row(&certificate.identity, cells);
    }
    table.end(sorted.len(), view.certificates.len());
    html
}

/// What is quarantined: inputs, and actors.
pub(super) fn quarantine(view: &View) -> Html {
    const COLUMNS: [Column; 4] = [("Name", false), ("Kind", false), ("Crashes", true), ("Next try", true)];
    let actors = all(&view.tree).into_iter().filter(|node| node.state == NodeState::Quarantined);
    let actors: Vec<&NodeSnapshot> = actors.collect();
    let number = view.quarantined.len() + actors.len();
    let mut html = Html::default();
    if number == 0 {
        nothing(&mut html, "Nothing is quarantined.");
        return html;
    }
    let mut table = Table::begin(&mut html, "Quarantined inputs and actors", &COLUMNS);
    for aside in view.quarantined.iter().take(QUARANTINED) {
        let next = aside.retry_in.map_or_else(|| "later".to_owned(), |left| format!("in {}", span(left)));
        let cells = [cell(&aside.name), cell(&aside.kind), cell(aside.crashes), cell(next)];
        table.row(format_args!("{} {}", aside.kind, aside.name), cells);
    }
    let room = QUARANTINED.saturating_sub(view.quarantined.len());
    for node in actors.iter().take(room) {
        let name = named(&node.path, node.shown_as.as_deref().unwrap_or_default());
        table.row(&node.path, [name, cell("actor"), cell(node.restarts), cell("later")]);
    }
    table.end(number.min(QUARANTINED), number);
    html
}
