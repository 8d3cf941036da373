//! Ports for operators (docs/spec/controlplane.md 4.3, 5.1 and 7).

use serde::Serialize;

use super::{
    proxy_config::{PROXY_CONFIG, ProxyConfig},
    reader::{Invalid, Reader},
};

/// Ports for operators, in the proxy's own network namespace; 0 means any free one.
#[derive(Clone, Debug, Serialize)]
pub struct AdminConfig {
    /// The admin pages, on loopback only.
    pub admin_port: u16,
    /// Metrics.
    pub stats_port: u16,
    /// Readiness.
    pub readiness_port: u16,
}

impl AdminConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        let config = Self {
            admin_port: proxy.admin_port.unwrap_or(15000),
            stats_port: proxy.stats_port.unwrap_or(15020),
            readiness_port: 15021,
        };
        let mut ports = [config.admin_port, config.stats_port, config.readiness_port];
        ports.sort_unstable();
        for port in ports.windows(2).filter_map(|pair| match pair {
            [a, b] if a == b && *a != 0 => Some(a),
            _ => None,
        }) {
            let reason = "asked for twice among admin, stats and readiness".into();
            r.note(Invalid::env(PROXY_CONFIG.name, &format!("port {port}"), reason));
        }
        config
    }
}
