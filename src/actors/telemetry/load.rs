//! The metrics of mailboxes and handlers. They are read from the tree's shared memory when somebody asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    supervisor::{NodeSnapshot, TreeHandle},
    telemetry::series::{
        Computed, MetricsError, Readings,
        declared::{HANDLER_SECONDS, MAILBOX_DEPTH, MAILBOX_OLDEST, MESSAGES},
    },
};

/// Mailboxes and handlers by the kind of actor, of the tree that `tree` is set to once it is up. Kinds are words of the
/// program: there are about twenty.
///
/// # Errors
/// A name is not valid: a mistake in the declarations.
pub fn of_actors(tree: Arc<OnceLock<TreeHandle>>) -> Result<Computed, MetricsError> {
    let families = &[MAILBOX_DEPTH, MAILBOX_OLDEST, MESSAGES, HANDLER_SECONDS];
    Computed::new(families, move |readings| {
        if let Some(tree) = tree.get() {
            read(tree, readings);
        }
    })
}

fn read(tree: &TreeHandle, readings: &mut Readings) {
    let mut waiting: BTreeMap<&'static str, (usize, Duration)> = BTreeMap::new();
    let mut left: Vec<NodeSnapshot> = tree.snapshot();
    while let Some(node) = left.pop() {
        let (depth, oldest) = waiting.entry(node.kind_label).or_default();
        *depth += node.load.depth;
        *oldest = node.load.oldest.max(*oldest);
        left.extend(node.children);
    }
    for (kind, handled, busy) in tree.handled_by_kind() {
        let (depth, oldest) = waiting.get(kind).copied().unwrap_or_default();
        readings.put(MAILBOX_DEPTH, &[kind], depth as f64);
        readings.put(MAILBOX_OLDEST, &[kind], oldest.as_secs_f64());
        readings.put(MESSAGES, &[kind], handled as f64);
        readings.put(HANDLER_SECONDS, &[kind], busy.as_secs_f64());
    }
}
