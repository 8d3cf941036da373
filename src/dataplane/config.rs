//! The settings that the data plane reads.

use std::sync::Arc;

use super::dns_config::DnsProxyConfig;
use crate::protocols::{
    config::{Config, InpodConfig, ListenConfig, MissingPolicy, SocketConfig, TimeoutConfig, TunnelConfig},
    hbone::budget::BufferBudget,
};

/// The sections of the settings that connections read (docs/spec/dataplane.md 1 and 2). A process has one value.
#[derive(Clone, Debug)]
pub(crate) struct DataPlaneConfig {
    /// Network of this node.
    pub(crate) network: String,
    /// Whether policy decisions are logged at info.
    pub(crate) policy_log: bool,
    /// What becomes of a policy that the control plane does not have.
    pub(crate) missing_policy: MissingPolicy,
    /// Sockets in pods.
    pub(crate) inpod: InpodConfig,
    /// The settings of the proxy's listeners.
    pub(crate) listen: ListenConfig,
    /// Tunnels between proxies.
    pub(crate) tunnel: TunnelConfig,
    /// Memory for bytes that wait for their readers.
    pub(crate) buffers: Arc<BufferBudget>,
    /// TCP options of sockets.
    pub(crate) socket: SocketConfig,
    /// The timeouts.
    pub(crate) timeouts: TimeoutConfig,
    /// The settings of the DNS proxy; `None` if the DNS proxy is off.
    pub(crate) dns: Option<DnsProxyConfig>,
}

// === impl DataPlaneConfig ===

impl DataPlaneConfig {
    /// Takes the sections from `config`. `dns` has the settings of the DNS proxy, or `None` if the DNS proxy is off.
    pub(crate) fn new(config: &Config, dns: Option<DnsProxyConfig>) -> Self {
        Self {
            network: config.node.network.clone(),
            policy_log: config.process.log.policy_info,
            missing_policy: config.policy.missing,
            inpod: config.inpod.clone(),
            listen: config.listen.clone(),
            tunnel: config.tunnel.clone(),
            buffers: BufferBudget::new(
                usize::try_from(config.tunnel.buffers.budget).unwrap_or(usize::MAX),
                config.process.shards.count,
            ),
            socket: config.socket.clone(),
            timeouts: config.timeouts.clone(),
            dns,
        }
    }
}
