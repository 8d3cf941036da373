//! Threads of the data plane (contract/controlplane.md section 4.2, below the table).

use serde::Serialize;

use super::{
    proxy_config::ProxyConfig,
    reader::Reader,
    value::{MAX_SHARDS, number, processors, share},
};

/// Threads of the data plane.
#[derive(Clone, Debug, Serialize)]
pub struct ShardConfig {
    /// How many, at least 1.
    pub count: usize,
}

impl ShardConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        // An empty quantity is a mistake, as it is for every number.
        let quantity = |r: &mut Reader<'_>, name: &str| {
            let value = processors(r.raw(name)?);
            value.map_err(|reason| r.reject(name, reason)).ok().flatten()
        };
        let limit = quantity(r, "ZTUNNEL_RESOURCE_CPU_LIMIT");
        let request = quantity(r, "ZTUNNEL_RESOURCE_CPU_REQUEST");
        let downward = r.number("ZTUNNEL_CPU_LIMIT", 0, 0..=usize::MAX);
        let cpus = limit.or((downward > 0).then_some(downward)).unwrap_or(r.inputs.cores).max(1);

        let asked = r.raw("ZTUNNEL_WORKER_THREADS").and_then(|text| {
            let threads = match text.strip_suffix('%') {
                Some(percent) => share(percent, cpus),
                None => number(text, &(0..=MAX_SHARDS)).map(|n| if n == 0 { cpus } else { n }),
            };
            threads.map_err(|reason| r.reject("ZTUNNEL_WORKER_THREADS", reason)).ok()
        });
        let concurrency = proxy.concurrency.map(|n| if n == 0 { cpus } else { n });
        let count = asked.or(concurrency).unwrap_or_else(|| match limit {
            Some(limit) => limit.max(request.unwrap_or(0)),
            None => cpus.div_ceil(4).max(request.unwrap_or(0)).max(2),
        });
        Self { count: count.clamp(1, MAX_SHARDS) }
    }
}
