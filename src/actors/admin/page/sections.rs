//! The sections of the page that are no tables: the verdict, numbers, sources, events, the supervision tree.

use super::{
    cells::{Column, Table, Tone, badge, cell, moment, more, nothing, per_second, span},
    findings::{Finding, Severity},
    html::Html,
    rates::Measured,
    view::{PodState, View},
};
use crate::{
    actors::admin::rows::bytes,
    supervisor::{NodeSnapshot, NodeState},
    telemetry::events::EventKind,
};

/// Limit: findings that the page shows: 12, the worst; past it: the page says how many more there are.
const FINDINGS: usize = 12;
/// Limit: nodes of the supervision tree that the page shows: 300; past it: the page says how many more a node has.
const NODES: usize = 300;
/// Limit: children of a node that the page shows: 40, those in trouble first; past it: the page says how many more there
/// are.
const CHILDREN: usize = 40;
/// The size of the drawing of rates, in its own units.
/// No limit: a size of a drawing.
const DRAWING: (f64, f64) = (240.0, 40.0);

/// The verdict and what it rests on.
pub(super) fn verdict(view: &View, findings: &[Finding]) -> Html {
    let broken = findings.iter().filter(|finding| finding.severity == Severity::Broken).count();
    let notable = findings.len() - broken;
    let mut html = Html::default();
    let tone = match (broken, notable) {
        (0, 0) => Tone::Good,
        (0, _) => Tone::Notable,
        _ => Tone::Bad,
    };
    html.put("<div class=\"verdict ").put(tone.class()).put("\"><p class=\"word\">").put(tone.mark());
    html.put(" ").text(sentence(view, broken, notable)).put("</p>");
    if !findings.is_empty() {
        html.put("<ul>");
        for finding in findings.iter().take(FINDINGS) {
            let (tone, word) = match finding.severity {
                Severity::Broken => (Tone::Bad, "broken"),
                Severity::Notable => (Tone::Notable, "look"),
            };
            html.put("<li>").join(&badge(tone, word)).put(" ").text(&finding.says);
            let heading = if finding.section == "tree" { "supervision" } else { finding.section };
            html.put(" <a href=\"#").put(finding.section).put("\">See ").put(heading).put("</a></li>");
        }
        html.put("</ul>");
        more(&mut html, findings.len().min(FINDINGS), findings.len());
    }
    html.put("</div>");
    html
}

/// The verdict in words.
pub(super) fn sentence(view: &View, broken: usize, notable: usize) -> String {
    let are = |number: usize, what: &str| match number {
        1 => format!("1 thing is {what}"),
        _ => format!("{number} things are {what}"),
    };
    match (broken, notable) {
        (0, 0) => {
            let served = view.pods.iter().filter(|pod| pod.state == PodState::Up).count();
            format!("All is well. Pods served: {served}.")
        }
        (0, _) => format!("{}.", are(notable, "worth a look")),
        (_, 0) => format!("{}.", are(broken, "broken")),
        _ => format!("{}, {} worth a look.", are(broken, "broken"), notable),
    }
}

/// The numbers that are looked at first.
pub(super) fn numbers(view: &View, measured: &Measured) -> Html {
    let served = view.pods.iter().filter(|pod| pod.state == PodState::Up).count();
    let rate = |of: Option<String>| of.unwrap_or_else(|| "–".to_owned());
    let node = measured.node;
    let resident = view.process.resident.map(|resident| bytes(resident as f64));
    let mut html = Html::default();
    html.put("<dl class=\"numbers\">");
    for (name, value) in [
        ("Pods served", format!("{served} of {}", view.pods.len())),
        ("Connections", view.connections.all.to_string()),
        ("Tunnels", view.tunnels.all.to_string()),
        ("Opened", rate(node.map(|node| per_second(node.opened)))),
        ("Memory", rate(resident)),
        ("Running for", span(view.process.uptime)),
    ] {
        html.put("<div><dt>").put(name).put("</dt><dd>").text(value).put("</dd></div>");
    }
    html.put("<div class=\"wide\"><dt>Bytes carried</dt><dd>");
    html.text(rate(node.map(|node| format!("{}/s", bytes(node.received + node.sent)))));
    drawing(&mut html, &measured.history);
    html.put("</dd></div></dl>");
    html
}

/// A line of the last rates. The number beside it is what a screen reader reads.
fn drawing(html: &mut Html, history: &[f64]) {
    let most = history.iter().copied().fold(1.0, f64::max);
    let (width, height) = DRAWING;
    let step = width / history.len().saturating_sub(1).max(1) as f64;
    html.put(
        "<svg class=\"drawing\" viewBox=\"0 0 240 40\" preserveAspectRatio=\"none\" aria-hidden=\"true\">",
    );
    html.put("<polyline points=\"");
    for (index, rate) in history.iter().enumerate() {
        let (x, y) = (index as f64 * step, 1.0 + (height - 2.0) * (1.0 - rate / most));
        html.text(format_args!("{x:.0},{y:.1} "));
    }
    html.put("\"></polyline></svg>");
}

/// Where the state of the mesh and the pods come from, and the shards.
pub(super) fn sources(view: &View) -> Html {
    let mut html = Html::default();
    html.put("<dl class=\"sources\">");
    if let Some(discovery) = &view.sources.discovery {
        html.put("<div><dt>Control plane</dt><dd>");
        let (tone, word) = match (discovery.connected, discovery.synced) {
            (true, true) => (Tone::Good, "connected"),
            (true, false) => (Tone::Notable, "sending its first state"),
            (false, true) => (Tone::Notable, "out of reach"),
            (false, false) => (Tone::Bad, "never reached"),
        };
        html.join(&badge(tone, word)).put(" for ").text(span(discovery.since));
        let error = discovery.last_error.as_ref().filter(|_| !discovery.connected);
        if let Some(error) = error {
            html.put("<span class=\"about\">").text(error).put("</span>");
        }
        html.put("</dd></div>");
    }
    if let Some(agent) = &view.sources.agent {
        html.put("<div><dt>istio-cni</dt><dd>");
        let tone = if agent.connected { Tone::Good } else { Tone::Bad };
        html.join(&badge(tone, &agent.says)).put("</dd></div>");
    }
    html.put("<div><dt>Readiness</dt><dd>");
    if view.pending.is_empty() {
        html.join(&badge(Tone::Good, "ready"));
    } else {
        html.join(&badge(Tone::Bad, "not ready")).put(" waits for ").text(view.pending.join("; "));
    }
    html.put("</dd></div><div><dt>The mesh</dt><dd>workloads: ").text(view.process.workloads);
    html.put(", services: ").text(view.process.services).put("</dd></div></dl>");
    const COLUMNS: [Column; 4] =
        [("Shard", false), ("Connections", true), ("Tunnels", true), ("Processor", true)];
    let mut table = Table::begin(&mut html, "Shards", &COLUMNS);
    for (index, shard) in view.process.shards.iter().enumerate() {
        let used = format!("{:.1} s", shard.used.as_secs_f64());
        table.row(index, [cell(index), cell(shard.connections), cell(shard.tunnels), cell(used)]);
    }
    table.end(view.process.shards.len(), view.process.shards.len());
    html
}

/// The last events, the newest first.
pub(super) fn events(view: &View) -> Html {
    let mut html = Html::default();
    if view.events.is_empty() {
        nothing(&mut html, "Nothing has happened yet.");
        return html;
    }
    html.put("<ol class=\"events\">");
    for event in &view.events {
        let tone = match event.kind {
            EventKind::Actor | EventKind::Quarantine | EventKind::Denial => Tone::Notable,
            _ => Tone::Plain,
        };
        html.put("<li data-key=\"").text(event.number).put("\">").join(&moment(event.at)).put(" ");
        html.join(&badge(tone, event.kind.as_str())).put(" ");
        if let Some(pod) = &event.pod {
            html.put("<strong>").text(pod).put("</strong> ");
        }
        html.text(&event.says).put("</li>");
    }
    html.put("</ol>");
    html
}

/// The supervision tree.
pub(super) fn tree(view: &View) -> Html {
    let mut html = Html::default();
    if view.tree.is_empty() {
        nothing(&mut html, "The tree is still starting.");
        return html;
    }
    let mut left = NODES;
    nodes(&mut html, &view.tree, None, &mut left);
    html
}

/// Some nodes, and all below them. A name stands where a part of the tree begins that has it, not at all below.
fn nodes(html: &mut Html, nodes: &[NodeSnapshot], name_above: Option<&str>, left: &mut usize) {
    let mut shown: Vec<&NodeSnapshot> = nodes.iter().collect();
    if shown.len() > CHILDREN {
        shown.sort_by_key(|node| (is_quiet(node), std::cmp::Reverse(node.restarts)));
        shown.truncate(CHILDREN);
    }
    // Nodes beside each other come before what is below them.
    shown.truncate(*left);
    *left = left.saturating_sub(shown.len());
    let drawn = shown.len();
    html.put("<ul class=\"tree\">");
    for node in shown {
        html.put("<li data-key=\"").text(&node.path).put("\">");
        if node.children.is_empty() {
            html.put("<div class=\"node\">").join(&line(node, name_above)).put("</div>");
        } else {
            // A pod whose actors are all up is of no interest until somebody asks.
            let is_folded = node.shown_as.is_some() && is_quiet(node);
            html.put(if is_folded { "<details><summary>" } else { "<details open><summary>" });
            html.join(&line(node, name_above)).put("</summary>");
            self::nodes(html, &node.children, node.shown_as.as_deref(), left);
            html.put("</details>");
        }
        html.put("</li>");
    }
    html.put("</ul>");
    more(html, drawn, nodes.len());
}

/// Whether a node and all below it are up.
fn is_quiet(node: &NodeSnapshot) -> bool {
    node.state == NodeState::Up && node.children.iter().all(is_quiet)
}

fn line(node: &NodeSnapshot, name_above: Option<&str>) -> Html {
    let tone = match node.state {
        NodeState::Up => Tone::Good,
        NodeState::Quarantined | NodeState::Down => Tone::Bad,
        NodeState::Starting | NodeState::BackingOff | NodeState::Stopping => Tone::Notable,
    };
    let mut html = Html::default();
    html.put("<span class=\"id\">");
    match node.shown_as.as_deref().filter(|name| name_above != Some(*name)) {
        Some(name) => html.text(name).put("</span> <span class=\"about\">").text(&node.id),
        None => html.text(&node.id),
    };
    html.put("</span> ").join(&badge(tone, node.state.as_str()));
    if node.restarts > 0 {
        html.put(" <span class=\"about\">restarts: ").text(node.restarts).put("</span>");
    }
    if node.load.depth > 0 {
        html.put(" <span class=\"about\">").text(node.load.depth).put(" messages wait, the oldest for ");
        html.text(node.load.oldest.as_millis()).put(" ms</span>");
    }
    if let Some(exit) = &node.last_exit {
        html.put(" <span class=\"about\">last exit ").join(&moment(exit.at)).put(": ");
        html.text(&exit.reason).put("</span>");
    }
    html
}
