//! What the shards carry and use, as metrics: read when somebody asks.

use std::sync::atomic::Ordering;

use prometheus::{
    CounterVec, IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::metrics::MetricsError;
use crate::runtime::shard::Shards;

/// Connections, tunnels and processor time by shard.
pub struct ShardLoads {
    shards: Shards,
    conns: IntGaugeVec,
    tunnels: IntGaugeVec,
    taken: IntCounterVec,
    used: CounterVec,
}

// === impl ShardLoads ===

impl ShardLoads {
    /// Of `shards`.
    ///
    /// # Errors
    /// A name is none: a mistake in this file.
    pub fn new(shards: Shards) -> Result<Self, MetricsError> {
        let shard = &["shard"];
        let conns = Opts::new("warren_shard_connections", "Connections of applications now");
        let tunnels = Opts::new("warren_shard_tunnels", "Tunnels now, by either end");
        let taken = Opts::new("warren_shard_taken_total", "Connections and tunnels taken");
        let used = Opts::new("warren_shard_cpu_seconds_total", "Processor time of the shard's threads");
        Ok(Self {
            shards,
            conns: IntGaugeVec::new(conns, shard)?,
            tunnels: IntGaugeVec::new(tunnels, shard)?,
            taken: IntCounterVec::new(taken, shard)?,
            used: CounterVec::new(used, shard)?,
        })
    }

    fn read(&self) {
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (index, load) in self.shards.loads().enumerate() {
            let shard = index.to_string();
            let shard = &[shard.as_str()];
            self.conns.with_label_values(shard).set(signed(load.conns.load(Ordering::Relaxed)));
            self.tunnels.with_label_values(shard).set(signed(load.tunnels.load(Ordering::Relaxed)));
            let counter = self.taken.with_label_values(shard);
            counter.inc_by(load.placed.load(Ordering::Relaxed).saturating_sub(counter.get()));
            let counter = self.used.with_label_values(shard);
            counter.inc_by((self.shards.balance().used(index).as_secs_f64() - counter.get()).max(0.0));
        }
    }

    fn families(&self) -> [&dyn Collector; 4] {
        [&self.conns, &self.tunnels, &self.taken, &self.used]
    }
}

impl Collector for ShardLoads {
    fn desc(&self) -> Vec<&Desc> {
        self.families().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.read();
        self.families().into_iter().flat_map(Collector::collect).collect()
    }
}
