//! Threads of the data plane (docs/spec/controlplane.md 4.2, below the table).

use serde::Serialize;

use super::{
    proxy_config::ProxyConfig,
    reader::Reader,
    value::{MAX_SHARDS, number, processors, share},
    var::Var,
};

const WORKER_THREADS: Var = Var::new(
    "ZTUNNEL_WORKER_THREADS",
    "number, or a share such as `50%`",
    "reckoned from the processors",
    "Shards; `0` is one for each processor. Without it, `concurrency` of `PROXY_CONFIG` counts; else the CPU limit, or \
     the request if that is larger; else a quarter of the processors, the CPU request or 2, whichever is most.",
);
const CPU_LIMIT: Var = Var::new("ZTUNNEL_RESOURCE_CPU_LIMIT", "processors", "", "The CPU limit of the pod.");
const CPU_REQUEST: Var =
    Var::new("ZTUNNEL_RESOURCE_CPU_REQUEST", "processors", "", "The CPU request of the pod.");
const DOWNWARD_CPU_LIMIT: Var = Var::number(
    "ZTUNNEL_CPU_LIMIT",
    "0",
    "Processors to reckon with where there is no CPU limit; `0` is those of the machine.",
);

/// Threads of the data plane.
#[derive(Clone, Debug, Serialize)]
pub struct ShardConfig {
    /// How many, at least 1.
    pub count: usize,
}

impl ShardConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        // An empty quantity is a mistake, as it is for every number.
        let quantity = |r: &mut Reader<'_>, var: &'static Var| {
            let value = processors(r.raw(var)?);
            value.map_err(|reason| r.reject(var, reason)).ok().flatten()
        };
        let asked = r.raw(&WORKER_THREADS);
        let limit = quantity(r, &CPU_LIMIT);
        let request = quantity(r, &CPU_REQUEST);
        let downward = r.number(&DOWNWARD_CPU_LIMIT, 0..=usize::MAX);
        let cpus = limit.or((downward > 0).then_some(downward)).unwrap_or(r.inputs.cores).max(1);

        let asked = asked.and_then(|text| {
            let threads = match text.strip_suffix('%') {
                Some(percent) => share(percent, cpus),
                None => number(text, &(0..=MAX_SHARDS)).map(|n| if n == 0 { cpus } else { n }),
            };
            threads.map_err(|reason| r.reject(&WORKER_THREADS, reason)).ok()
        });
        let concurrency = proxy.concurrency.map(|n| if n == 0 { cpus } else { n });
        let count = asked.or(concurrency).unwrap_or_else(|| match limit {
            Some(limit) => limit.max(request.unwrap_or(0)),
            None => cpus.div_ceil(4).max(request.unwrap_or(0)).max(2),
        });
        Self { count: count.clamp(1, MAX_SHARDS) }
    }
}
