//! The supervision tree as JSON, for `/actors`, and what is quarantined, for `/quarantine`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    console::{Provider, ProviderError, provider},
    readiness::Readiness,
};
use crate::{
    actors::quarantine::Quarantine,
    supervisor::{Load, NodeKind, NodeSnapshot, NodeState, TreeHandle},
};

/// Shows the tree that `handle` is set to once it is up: the servers are part of it and start before. The root has the
/// notes of `readiness`.
pub(crate) fn of_tree(handle: Arc<OnceLock<TreeHandle>>, readiness: Readiness) -> Provider {
    provider(move || {
        let shown = match handle.get() {
            Some(tree) => Ok(noted(nodes(&tree.snapshot()), &readiness.notes())),
            None => Err(ProviderError("the tree is still starting".to_owned())),
        };
        async { shown }
    })
}

/// Shows the input and the actors that are quarantined.
pub(crate) fn quarantined(quarantine: Quarantine, handle: Arc<OnceLock<TreeHandle>>) -> Provider {
    provider(move || {
        let inputs = quarantine.list().into_iter().map(|input| {
            let retry_in = input.retry_in.as_secs();
            json!({"kind": input.kind, "name": &*input.name, "crashes": input.crashes, "retryInSeconds": retry_in})
        });
        let mut shown: Vec<Value> = inputs.collect();
        let mut left = handle.get().map(TreeHandle::snapshot).unwrap_or_default();
        while let Some(node) = left.pop() {
            if node.state == NodeState::Quarantined {
                // When it is tried again is known to its supervisor alone.
                let (name, crashes) = (&*node.path, node.restarts);
                let shown_as = node.shown_as.as_deref();
                shown.push(json!({
                    "kind": "actor", "name": name, "shownAs": shown_as, "crashes": crashes, "retryInSeconds": null,
                }));
            }
            left.extend(node.children);
        }
        async { Ok(Value::Array(shown)) }
    })
}

/// Nodes and all below them.
pub(crate) fn nodes(nodes: &[NodeSnapshot]) -> Value {
    nodes.iter().map(node).collect()
}

/// The nodes, the first of which has these notes.
fn noted(mut nodes: Value, notes: &[String]) -> Value {
    if let Some(root) = nodes.get_mut(0).and_then(Value::as_object_mut) {
        root.insert("notes".to_owned(), json!(notes));
    }
    nodes
}

fn node(node: &NodeSnapshot) -> Value {
    let kind = match node.kind {
        NodeKind::Worker => "worker",
        NodeKind::Supervisor => "supervisor",
    };
    let last_exit = node.last_exit.as_ref().map(|exit| {
        // Years past 9999 have no RFC 3339 form.
        let at = OffsetDateTime::from(exit.at).format(&Rfc3339).unwrap_or_default();
        json!({"at": at, "reason": exit.reason})
    });
    let mut shown = json!({
        "path": &*node.path,
        "id": &*node.id,
        "is": node.kind_label,
        "kind": kind,
        "state": node.state.as_str(),
        "restarts": node.restarts,
        "lastExit": last_exit,
        "mailbox": {"depth": node.load.depth, "oldestMs": ms(node.load.oldest)},
        "handlers": handlers(&node.load),
        "children": nodes(&node.children),
    });
    if let (Some(name), Some(fields)) = (&node.shown_as, shown.as_object_mut()) {
        fields.insert("name".to_owned(), json!(&**name));
    }
    shown
}

fn handlers(load: &Load) -> Value {
    let at = |(kind, time): (&'static str, Duration)| json!({"kind": kind, "ms": ms(time)});
    json!({
        "handled": load.handled,
        "busyMs": ms(load.busy),
        "longest": load.longest.map(at),
        "now": load.handling.map(at),
    })
}

/// Milliseconds, to the microsecond.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
