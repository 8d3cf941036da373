//! What of the settings the data plane reads.

use super::dns_config::DnsProxyConfig;
use crate::protocols::config::{
    Config, InpodConfig, ListenConfig, SocketConfig, TimeoutConfig, TunnelConfig,
};

/// The sections of the settings that connections read (docs/spec/dataplane.md 1 and 2). One value a process.
#[derive(Clone, Debug)]
pub(crate) struct DataPlaneConfig {
    /// Network of this node.
    pub(crate) network: String,
    /// Policy decisions are logged at info.
    pub(crate) policy_log: bool,
    /// Sockets in pods.
    pub(crate) inpod: InpodConfig,
    /// What the proxy listens on and how it serves.
    pub(crate) listen: ListenConfig,
    /// Tunnels between proxies.
    pub(crate) tunnel: TunnelConfig,
    /// TCP options of sockets.
    pub(crate) socket: SocketConfig,
    /// How long anything is waited for.
    pub(crate) timeouts: TimeoutConfig,
    /// How names are answered, if they are.
    pub(crate) dns: Option<DnsProxyConfig>,
}

// === impl DataPlaneConfig ===

impl DataPlaneConfig {
    /// The sections of `config`; `dns` is how names are answered, if they are.
    pub(crate) fn new(config: &Config, dns: Option<DnsProxyConfig>) -> Self {
        Self {
            network: config.node.network.clone(),
            policy_log: config.process.log.policy_info,
            inpod: config.inpod.clone(),
            listen: config.listen.clone(),
            tunnel: config.tunnel.clone(),
            socket: config.socket.clone(),
            timeouts: config.timeouts.clone(),
            dns,
        }
    }
}
