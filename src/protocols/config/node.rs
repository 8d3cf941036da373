//! The identity of this proxy (docs/spec/controlplane.md 2.2 and 4.2).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use http::HeaderValue;
use serde::Serialize;
use serde_json::Value;

use super::{
    proxy_config::ProxyConfig,
    reader::{Reader, defaults},
    summary,
    var::Var,
};
use crate::protocols::identity::Identity;

const NODE_NAME: Var =
    Var::text("NODE_NAME", "", "The node's name. Without it every workload counts as local.");
const POD_NAME: Var = Var::text("POD_NAME", "", OWN_POD);
const POD_NAMESPACE: Var = Var::text("POD_NAMESPACE", "", OWN_POD);
const SERVICE_ACCOUNT: Var = Var::text("SERVICE_ACCOUNT", "", OWN_POD);
const OWN_POD: &str = "The proxy's own pod. If name, namespace and service account are all set, the pod is served on \
    15008 too, so that 15020 can be scraped through the mesh.";
const INSTANCE_IP: Var =
    Var::new("INSTANCE_IP", "IP address", "1.1.1.1", "The proxy's address, as the control plane is told.");
const NETWORK: Var = Var::text("NETWORK", "", "The node's network.");
const ISTIO_META_CLUSTER_ID: Var = Var::text("ISTIO_META_CLUSTER_ID", "Kubernetes", CLUSTER);
const CLUSTER_ID: Var = Var::text("CLUSTER_ID", "Kubernetes", CLUSTER);
const CLUSTER: &str = "The node's cluster. The first one that is set counts.";
const CLUSTER_DOMAIN: Var = Var::new(
    "CLUSTER_DOMAIN",
    "domain name",
    "cluster.local",
    "The suffix of services' names, for the DNS proxy.",
);
const TRUST_DOMAIN: Var = Var::text(
    "TRUST_DOMAIN",
    "cluster.local",
    "No effect: identities carry the trust domain of their workload.",
);
const ISTIO_VERSION: Var = Var::text(
    "ISTIO_META_ISTIO_VERSION",
    "unknown",
    "The mesh's release that the proxy was shipped with: the tag of `istio_build`.",
);
const METADATA_JSON: Var = Var::new(
    "ISTIO_METAJSON_*",
    "JSON",
    "",
    "Metadata for the control plane. A value that is no JSON is left out with a warning.",
);
const PROXY_MODE: Var = Var::new(
    "PROXY_MODE",
    "`shared` or `dedicated`",
    "shared",
    "For whom the proxy works: the pods that istio-cni hands over, or the one workload beside it, without istio-cni.",
);
const PROXY_WORKLOAD_INFO: Var = Var::new(
    "PROXY_WORKLOAD_INFO",
    "namespace/name/service-account",
    "",
    "The workload of the dedicated mode, which needs it.",
);

/// The identity of this proxy.
#[derive(Clone, Debug, Serialize)]
pub struct NodeConfig {
    /// The pods or the workload that the proxy works for.
    pub mode: ProxyMode,
    /// The name of the node. Without a name every workload counts as local.
    pub node_name: Option<String>,
    /// The name of the proxy's own pod.
    pub pod_name: Option<String>,
    /// The namespace of the proxy's own pod.
    pub pod_namespace: Option<String>,
    /// The service account of the proxy's own pod.
    pub service_account: Option<String>,
    /// The address of the proxy's own pod.
    pub instance_ip: IpAddr,
    /// The node's network.
    pub network: String,
    /// The node's cluster.
    pub cluster_id: String,
    /// The suffix of services' names in DNS.
    pub cluster_domain: String,
    /// The trust domain of the proxy's own pod.
    pub trust_domain: String,
    /// The release of the mesh that the proxy was shipped with.
    pub istio_version: String,
    /// What the discovery server is told about the proxy.
    #[serde(serialize_with = "summary::keys")]
    pub metadata: BTreeMap<String, Value>,
    /// The part of the metadata that dumps show: texts of `ISTIO_META_…` and of `proxyMetadata`.
    #[serde(skip)]
    pub proxy_metadata: BTreeMap<String, String>,
}

/// The pods or the workload that a proxy works for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyMode {
    /// For the pods that istio-cni hands over.
    Shared,
    /// The proxy works for one workload.
    Dedicated(WorkloadInfo),
}

/// A workload, as the control plane is asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkloadInfo {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub name: String,
    /// The workload's service account.
    pub service_account: String,
}

impl Default for NodeConfig {
    fn default() -> Self {
        defaults(|r| {
            let proxy = ProxyConfig::read(r);
            Self::read(r, &proxy)
        })
    }
}

impl NodeConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        let own = |r: &Reader<'_>, var| r.text(var).map(str::to_owned);
        let ip =
            r.parse_or_default(&INSTANCE_IP, |ip| ip.parse().map_err(|_| "not an IP address".to_owned()));
        let mut config = Self {
            mode: ProxyMode::read(r),
            node_name: own(r, &NODE_NAME),
            pod_name: r.parse(&POD_NAME, node_id_part),
            pod_namespace: r.parse(&POD_NAMESPACE, node_id_part),
            service_account: own(r, &SERVICE_ACCOUNT),
            instance_ip: ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            network: r.text_or_default(&NETWORK),
            cluster_id: cluster_id(r),
            cluster_domain: r.parse_or_default(&CLUSTER_DOMAIN, domain).unwrap_or_default(),
            trust_domain: r.parse_or_default(&TRUST_DOMAIN, trust_domain).unwrap_or_default(),
            istio_version: r.text_or_default(&ISTIO_VERSION),
            metadata: BTreeMap::new(),
            proxy_metadata: proxy.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        config.metadata = metadata(r, &config, proxy);
        config
    }

    /// Whether the proxy works for one workload.
    pub fn is_dedicated(&self) -> bool {
        matches!(self.mode, ProxyMode::Dedicated(_))
    }

    /// Serve the proxy's own pod as a workload too: its name, namespace and service account are all known. In the
    /// dedicated mode the workload has the ports.
    pub fn serves_itself(&self) -> bool {
        !self.is_dedicated()
            && self.pod_name.is_some()
            && self.pod_namespace.is_some()
            && self.service_account.is_some()
    }
}

fn metadata(r: &mut Reader<'_>, config: &NodeConfig, proxy: &ProxyConfig) -> BTreeMap<String, Value> {
    let mut metadata = BTreeMap::new();
    let mut put = |key: &str, value: &str| metadata.insert(key.to_owned(), Value::from(value));
    put("NAME", config.pod_name.as_deref().unwrap_or_default());
    put("NAMESPACE", config.pod_namespace.as_deref().unwrap_or_default());
    put("INSTANCE_IPS", &config.instance_ip.to_string());
    put("NODE_NAME", config.node_name.as_deref().unwrap_or_default());
    for (key, value) in &proxy.metadata {
        put(key, value);
    }
    for (key, value) in r.prefixed(&METADATA_JSON) {
        match serde_json::from_str(value) {
            Ok(value) => {
                metadata.insert(key.to_owned(), value);
            }
            Err(error) => {
                r.warn(&format!("ISTIO_METAJSON_{key}"), "…", format!("ignored: not JSON: {error}"));
            }
        }
    }
    metadata
}

fn cluster_id(r: &mut Reader<'_>) -> String {
    let usable = |id: &str| match HeaderValue::from_str(id) {
        Ok(_) => Ok(id.to_owned()),
        Err(_) => Err("not usable in an HTTP header".to_owned()),
    };
    let first = r.parse(&ISTIO_META_CLUSTER_ID, usable);
    let second = r.parse(&CLUSTER_ID, usable);
    first.or(second).unwrap_or_else(|| CLUSTER_ID.default.into())
}

fn node_id_part(text: &str) -> Result<String, String> {
    if text.contains('~') {
        Err("~ separates the parts of the node's id".into())
    } else {
        Ok(text.to_owned())
    }
}

fn domain(text: &str) -> Result<String, String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("not a domain name".into())
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    match Identity::new(text, "ns", "sa") {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("not a trust domain".into()),
    }
}

// === impl ProxyMode ===

impl ProxyMode {
    fn read(r: &mut Reader<'_>) -> Self {
        let dedicated = r.parse(&PROXY_MODE, |mode| match mode {
            "shared" => Ok(false),
            "dedicated" => Ok(true),
            _ => Err("not shared or dedicated".into()),
        });
        let info = r.text(&PROXY_WORKLOAD_INFO);
        if dedicated != Some(true) {
            if let Some(info) = info {
                r.warn(PROXY_WORKLOAD_INFO.name, info, "no effect: PROXY_MODE is not dedicated".into());
            }
            return Self::Shared;
        }
        if info.is_none() {
            r.reject(&PROXY_WORKLOAD_INFO, "the dedicated mode needs namespace/name/service-account");
        }
        r.parse(&PROXY_WORKLOAD_INFO, WorkloadInfo::parse).map_or(Self::Shared, Self::Dedicated)
    }
}

// === impl WorkloadInfo ===

impl WorkloadInfo {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [namespace, name, account] if !parts.contains(&"") => Ok(Self {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
                service_account: (*account).to_owned(),
            }),
            _ => Err("not namespace/name/service-account".into()),
        }
    }
}
