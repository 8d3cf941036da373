//! What is wrong, in words, out of what the page shows.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use super::{
    cells::clock,
    view::{PodState, PodView, View},
};
use crate::supervisor::{NodeSnapshot, NodeState};

/// Limit: names in a sentence about what is wrong: 3; past it: the others are counted.
const NAMES: usize = 3;
/// Limit: wait of a message in a mailbox that is not worth a word: 1 s; past it: the page says that the actor is behind.
const BEHIND_AFTER: Duration = Duration::from_secs(1);
/// Limit: time for which the page tells of a crash: 10 min; past it: only the tree tells of it.
const CRASHES_WITHIN: Duration = Duration::from_secs(600);
/// The part of a certificate's life that is left when the certificate is overdue. Renewal is due at half of the life.
/// Limit: life left of a certificate that is not overdue: a quarter; past it: the page says so.
const OVERDUE_PART: u32 = 4;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Somebody does not get what the proxy is for.
    Broken,
    /// Nobody suffers yet, or the proxy mends it.
    Notable,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) severity: Severity,
    /// The sentence that says it.
    pub(super) says: String,
    /// The id of the section that shows more.
    pub(super) section: &'static str,
}

/// What is wrong, the worst first.
pub(super) fn findings(view: &View) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    if !view.pending.is_empty() {
        let says = format!("The proxy is not ready. It waits for: {}.", view.pending.join("; "));
        found.0.push(Finding { severity: Severity::Broken, says, section: "discovery" });
    }
    found.pods(&view.pods);
    found.certificates(view);
    found.sources(view);
    let quarantined = view.quarantined.iter().map(|aside| format!("{} {}", aside.kind, aside.name));
    found.about((Severity::Notable, "quarantine"), quarantined.collect(), |number, names| {
        let is = if number == 1 { "thing is" } else { "things are" };
        format!("{number} {is} quarantined for crashing: {names}.")
    });
    found.tree(view);
    found.0.sort_by_key(|finding| finding.severity);
    found.0
}

/// The findings so far.
struct Found(Vec<Finding>);

// === impl Found ===

impl Found {
    /// Adds a sentence about some names, if there are any.
    fn about(
        &mut self,
        (severity, section): (Severity, &'static str),
        names: Vec<String>,
        says: impl Fn(usize, String) -> String,
    ) {
        if names.is_empty() {
            return;
        }
        let mut listed = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        if let Some(more @ 1..) = names.len().checked_sub(NAMES) {
            listed.push_str(&format!(" and {more} more"));
        }
        self.0.push(Finding { severity, says: says(names.len(), listed), section });
    }

    fn pods(&mut self, pods: &[PodView]) {
        let named = |state: PodState| {
            let pods = pods.iter().filter(move |pod| pod.state == state);
            pods.map(|pod| match &pod.detail {
                Some(detail) => format!("{} ({detail})", pod.name),
                None => pod.name.clone(),
            })
        };
        self.about((Severity::Broken, "pods"), named(PodState::Out).collect(), |number, names| {
            format!("{} out of the mesh: {names}.", pods_are(number))
        });
        self.about((Severity::Notable, "pods"), named(PodState::Pending).collect(), |number, names| {
            format!("{} not served yet: {names}.", pods_are(number))
        });
        let waits = pods.iter().filter(|pod| pod.counts.waits).map(|pod| pod.name.clone());
        self.about((Severity::Broken, "pods"), waits.collect(), |number, names| {
            format!("{} short of descriptors, so new connections wait: {names}.", pods_are(number))
        });
        let deaf = pods
            .iter()
            .filter(|pod| pod.state == PodState::Up && pod.listeners.iter().any(|listener| !listener.open));
        self.about((Severity::Notable, "pods"), deaf.map(|pod| pod.name.clone()).collect(), |_, names| {
            format!("Listeners are not open, in: {names}.")
        });
    }

    fn certificates(&mut self, view: &View) {
        let lacking = view.certificates.iter().filter_map(|certificate| {
            let (word, usable) = certificate.state(view.at);
            (!usable).then(|| format!("{} ({word})", certificate.identity))
        });
        self.about((Severity::Broken, "certificates"), lacking.collect(), |number, names| {
            let have = if number == 1 { "identity has" } else { "identities have" };
            format!("{number} {have} no valid certificate: {names}.")
        });
        let overdue = view.certificates.iter().filter_map(|certificate| {
            let (start, end) = certificate.valid.filter(|(_, end)| *end > view.at)?;
            let (life, left) = (end.duration_since(start).ok()?, end.duration_since(view.at).ok()?);
            (left < life / OVERDUE_PART).then(|| certificate.identity.clone())
        });
        self.about((Severity::Notable, "certificates"), overdue.collect(), |number, names| {
            let are = if number == 1 { "certificate is" } else { "certificates are" };
            format!("{number} {are} overdue for renewal: {names}.")
        });
    }

    fn sources(&mut self, view: &View) {
        if let Some(discovery) = view.sources.discovery.as_ref().filter(|discovery| !discovery.connected) {
            let why = discovery.last_error.as_deref().unwrap_or("no stream was opened yet");
            let since = clock(view.at.checked_sub(discovery.since).unwrap_or(view.at));
            let says = format!("The control plane is out of reach since {since} UTC: {why}.");
            self.0.push(Finding { severity: Severity::Notable, says, section: "discovery" });
        }
    }

    fn tree(&mut self, view: &View) {
        let nodes = all(&view.tree);
        let named = |node: &&NodeSnapshot| match &node.shown_as {
            Some(name) => format!("{} ({name})", node.path),
            None => node.path.to_string(),
        };
        let in_state = |states: &[NodeState]| -> Vec<String> {
            nodes.iter().filter(|node| states.contains(&node.state)).map(named).collect()
        };
        self.about((Severity::Notable, "tree"), in_state(&[NodeState::Quarantined]), |number, names| {
            let is = if number == 1 { "actor is" } else { "actors are" };
            format!("{number} {is} quarantined for failing too often: {names}.")
        });
        let restarting = [NodeState::BackingOff, NodeState::Down, NodeState::Starting];
        self.about((Severity::Notable, "tree"), in_state(&restarting), |number, names| {
            let is = if number == 1 { "actor does" } else { "actors do" };
            format!("{number} {is} not run at the moment: {names}.")
        });
        let behind = nodes.iter().filter(|node| node.load.oldest >= BEHIND_AFTER).map(named);
        self.about((Severity::Notable, "tree"), behind.collect(), |_, names| {
            format!("Messages have waited for over a second, in: {names}.")
        });
        let crashed = nodes.iter().filter(|node| crashed_lately(node, view.at)).map(named);
        self.about((Severity::Notable, "tree"), crashed.collect(), |number, names| {
            let actors = if number == 1 { "actor" } else { "actors" };
            format!("{number} {actors} crashed in the last 10 minutes and came back: {names}.")
        });
    }
}

fn crashed_lately(node: &NodeSnapshot, now: SystemTime) -> bool {
    let since = node.last_exit.as_ref().and_then(|exit| now.duration_since(exit.at).ok());
    node.state == NodeState::Up && since.is_some_and(|since| since < CRASHES_WITHIN)
}

/// The nodes and all below them.
pub(super) fn all(tree: &[NodeSnapshot]) -> Vec<&NodeSnapshot> {
    let (mut nodes, mut left): (Vec<_>, Vec<_>) = (Vec::new(), tree.iter().rev().collect());
    while let Some(node) = left.pop() {
        nodes.push(node);
        left.extend(node.children.iter().rev());
    }
    nodes
}

fn pods_are(number: usize) -> String {
    format!("{number} {}", if number == 1 { "pod is" } else { "pods are" })
}
