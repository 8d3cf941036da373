//! The DNS proxy (docs/spec/dataplane.md 1.1 and 7).

use std::{fmt, net::SocketAddr};

use serde::{Serialize, Serializer};

use super::{
    proxy_config::ProxyConfig,
    reader::{Invalid, Reader},
};

/// No limit: the default port of the DNS proxy.
const PORT: u16 = 15053;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The DNS proxy of each pod.
#[derive(Clone, Debug, Serialize)]
pub struct DnsConfig {
    /// It runs.
    pub enabled: bool,
    /// Where it listens.
    pub address: DnsAddr,
    /// Which namespace's service wins after the client's own.
    pub preferred_namespace: Option<String>,
    /// Names the name servers for what is none of the mesh's names.
    pub resolv_conf: String,
}

/// Where the DNS proxy listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsAddr {
    /// This port of every loopback address.
    Localhost(u16),
    /// This address.
    Ip(SocketAddr),
}

impl DnsConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        let capture = proxy.metadata.get("DNS_CAPTURE");
        let address = proxy.metadata.get("DNS_PROXY_ADDR").filter(|text| !text.is_empty());
        let address = address.and_then(|text| {
            let noted = |reason| r.note(Invalid::env("ISTIO_META_DNS_PROXY_ADDR", text, reason));
            DnsAddr::parse(text).map_err(noted).ok()
        });
        Self {
            enabled: capture.is_none_or(|text| text.eq_ignore_ascii_case("true")),
            address: address.unwrap_or(DnsAddr::Localhost(PORT)),
            preferred_namespace: preferred_namespace(r),
            resolv_conf: r.text("WARREN_RESOLV_CONF").unwrap_or(RESOLV_CONF).to_owned(),
        }
    }
}

/// The misspelling is the name that users have in their deployments.
fn preferred_namespace(r: &mut Reader<'_>) -> Option<String> {
    const NAME: &str = "PREFERED_SERVICE_NAMESPACE";
    let namespace = r.text(NAME)?;
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if namespace.len() <= 63 && namespace.bytes().all(label) {
        return Some(namespace.to_owned());
    }
    r.warn(NAME, namespace, "ignored: not a namespace".into());
    None
}

// === impl DnsAddr ===

impl DnsAddr {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || "not localhost:port or ip:port".to_owned();
        match text.strip_prefix("localhost:") {
            Some(port) => port.parse().map(Self::Localhost).map_err(|_| bad()),
            None => text.parse().map(Self::Ip).map_err(|_| bad()),
        }
    }
}

impl fmt::Display for DnsAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Ip(addr) => addr.fmt(f),
        }
    }
}

impl Serialize for DnsAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
