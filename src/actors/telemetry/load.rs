//! What the actors have to do, as metrics: read from the tree's shared memory when somebody asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus::{
    CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    supervisor::{NodeSnapshot, TreeHandle},
    telemetry::metrics::MetricsError,
};

/// Mailboxes and handlers by the kind of actor. Kinds are words of the program: there are about twenty.
pub struct ActorLoads {
    tree: Arc<OnceLock<TreeHandle>>,
    depth: IntGaugeVec,
    oldest: GaugeVec,
    handled: IntCounterVec,
    busy: CounterVec,
}

// === impl ActorLoads ===

impl ActorLoads {
    /// Of the tree that `tree` is set to once it is up.
    ///
    /// # Errors
    /// A name is none: a mistake in this file.
    pub fn new(tree: Arc<OnceLock<TreeHandle>>) -> Result<Self, MetricsError> {
        let kind = &["kind"];
        let depth = Opts::new("warren_actor_mailbox_depth", "Messages that wait, over all actors of a kind");
        let oldest = Opts::new(
            "warren_actor_mailbox_oldest_seconds",
            "Longest that a message waits now, of all actors of a kind",
        );
        let handled = Opts::new("warren_actor_messages_total", "Messages handled");
        let busy = Opts::new("warren_actor_handler_seconds_total", "Time in handlers, awaits included");
        Ok(Self {
            tree,
            depth: IntGaugeVec::new(depth, kind)?,
            oldest: GaugeVec::new(oldest, kind)?,
            handled: IntCounterVec::new(handled, kind)?,
            busy: CounterVec::new(busy, kind)?,
        })
    }

    fn read(&self, tree: &TreeHandle) {
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
            self.depth.with_label_values(&[kind]).set(i64::try_from(depth).unwrap_or(i64::MAX));
            self.oldest.with_label_values(&[kind]).set(oldest.as_secs_f64());
            let counter = self.handled.with_label_values(&[kind]);
            counter.inc_by(handled.saturating_sub(counter.get()));
            let counter = self.busy.with_label_values(&[kind]);
            counter.inc_by((busy.as_secs_f64() - counter.get()).max(0.0));
        }
    }

    fn families(&self) -> [&dyn Collector; 4] {
        [&self.depth, &self.oldest, &self.handled, &self.busy]
    }
}

impl Collector for ActorLoads {
    fn desc(&self) -> Vec<&Desc> {
        self.families().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(tree) = self.tree.get() {
            self.read(tree);
        }
        self.families().into_iter().flat_map(Collector::collect).collect()
    }
}
