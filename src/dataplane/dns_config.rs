//! The settings by which the DNS proxy answers queries, and the node's name servers.

use std::{fs, sync::Arc};

use crate::protocols::{
    config::{Config, DnsConfig},
    dns::resolvers::Resolvers,
};

/// The settings of the DNS proxy, with the node's name servers.
#[derive(Clone, Debug)]
pub(crate) struct DnsProxyConfig {
    /// The settings of the DNS proxy.
    pub(crate) dns: DnsConfig,
    /// The cluster's domain, in lower case.
    pub(crate) domain: String,
    /// The search domains of the resolver whose queries come; `None` stands for those that Kubernetes sets in pods.
    pub(crate) search: Option<Vec<String>>,
    /// The name servers for names that are not in the mesh.
    pub(crate) resolvers: Arc<Resolvers>,
}

// === impl DnsProxyConfig ===

impl DnsProxyConfig {
    /// The settings of the DNS proxy; `None` if the DNS proxy is off.
    pub(crate) fn new(config: &Config, resolvers: &Arc<Resolvers>) -> Option<Self> {
        let domain = config.node.cluster_domain.to_ascii_lowercase();
        // The one workload of the dedicated mode uses this very resolv.conf.
        let search = config.node.is_dedicated().then(|| resolvers.search.clone());
        let on = config.dns.enabled;
        on.then(|| Self { dns: config.dns.clone(), domain, search, resolvers: resolvers.clone() })
    }
}

/// Reads the node's resolv.conf. Without a resolv.conf, only names of the mesh are answered.
pub(crate) fn name_servers(config: &Config) -> Arc<Resolvers> {
    let path = &config.dns.resolv_conf;
    let text = fs::read(path).unwrap_or_else(|error| {
        tracing::warn!(target: "dns", path, %error, "no name servers: cannot read resolv.conf");
        Vec::new()
    });
    let (resolvers, complaints) = Resolvers::parse(&text);
    for complaint in complaints {
        tracing::warn!(target: "dns", path, complaint, "passed over in resolv.conf");
    }
    Arc::new(resolvers)
}
