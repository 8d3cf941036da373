//! The servers operators and machines ask: readiness, stats, admin.

pub(crate) mod actors;
pub(crate) mod chaos;
pub mod cli;
pub(crate) mod client;
mod clients;
pub(crate) mod console;
pub(crate) mod crashes;
pub(crate) mod cut;
pub(crate) mod draw;
pub(crate) mod dump;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod page;
pub(crate) mod profiles;
pub(crate) mod readiness;
mod rows;
pub(crate) mod server;
pub(crate) mod stats;
#[cfg(test)]
mod tests;
pub(crate) mod why;

use std::{net::SocketAddr, sync::Arc};

pub use self::console::version;
use self::{console::Console, readiness::Readiness, server::HttpServer};
use crate::{
    supervisor::{Strategy, SupervisorSpec},
    telemetry::metrics::Metrics,
};

/// Where the servers listen. Loopback addresses of both families, or `[::]` for both in one.
#[derive(Clone, Debug)]
pub struct AdminAddrs {
    /// Port 15021.
    pub readiness: Vec<SocketAddr>,
    /// Port 15020.
    pub stats: Vec<SocketAddr>,
    /// Port 15000; loopback only.
    pub console: Vec<SocketAddr>,
}

/// The three servers.
#[derive(Clone, Debug)]
pub struct AdminServers {
    /// Answers the kubelet.
    pub readiness: HttpServer,
    /// Answers Prometheus.
    pub stats: HttpServer,
    /// Answers operators and istioctl.
    pub console: HttpServer,
}

// === impl AdminServers ===

impl AdminServers {
    /// The servers, not started.
    pub fn new(addrs: AdminAddrs, readiness: &Readiness, metrics: &Arc<Metrics>, console: Console) -> Self {
        let server = |name, addrs, handler| HttpServer::new(name, addrs, handler, Arc::clone(metrics));
        Self {
            readiness: server("readiness", addrs.readiness, readiness.handler()),
            stats: server("stats", addrs.stats, stats::scrapes(Arc::clone(metrics))),
            console: server("console", addrs.console, console.handler()),
        }
    }

    /// The part of the tree that runs them. A port that cannot be bound fails the start with an error that names it.
    pub fn supervisor(&self) -> SupervisorSpec {
        SupervisorSpec::new("admin", Strategy::OneForOne)
            .child(self.readiness.child())
            .child(self.stats.child())
            .child(self.console.child())
    }
}
