//! The DNS proxy (docs/spec/dataplane.md 1.1 and 7).

use std::{fmt, net::SocketAddr};

use serde::{Serialize, Serializer};

use super::{
    proxy_config::ProxyConfig,
    reader::{Invalid, Reader},
    var::Var,
};

const DNS_CAPTURE: Var = Var::flag(
    "ISTIO_META_DNS_CAPTURE",
    "true",
    "The questions of pods for names are answered. With anything but `true` nobody listens for them, and istio-cni must \
     not capture DNS.",
);
const DNS_PROXY_ADDR: Var = Var::new(
    "ISTIO_META_DNS_PROXY_ADDR",
    "`localhost:PORT` or `IP:PORT`",
    "localhost:15053",
    "Where the DNS proxy listens in each pod. `localhost` is 127.0.0.1, and ::1 where the pod has it.",
);
const PREFERRED_NAMESPACE: Var = Var::text(
    "PREFERED_SERVICE_NAMESPACE",
    "",
    "Of several services of one name, that of this namespace goes before others, after the client's own and canonical \
     ones. Anything that is no namespace is ignored with a warning.",
);
const RESOLV_CONF: Var = Var::new(
    "WARREN_RESOLV_CONF",
    "path",
    "/etc/resolv.conf",
    "Names the name servers for what is none of the mesh's names, with `timeout` and `attempts`. It is read at the start.",
);

/// The DNS proxy of each pod.
#[derive(Clone, Debug, Serialize)]
pub struct DnsConfig {
    /// The DNS proxy runs.
    pub enabled: bool,
    /// Where the DNS proxy listens in each pod.
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
        let capture = proxy.metadata(r, &DNS_CAPTURE).unwrap_or(DNS_CAPTURE.default);
        let address = proxy.metadata(r, &DNS_PROXY_ADDR).filter(|text| !text.is_empty());
        let address = address.unwrap_or(DNS_PROXY_ADDR.default);
        let noted = |reason| r.note(Invalid::env(DNS_PROXY_ADDR.name, address, reason));
        let address = DnsAddr::parse(address).map_err(noted).ok();
        Self {
            enabled: capture.eq_ignore_ascii_case("true"),
            address: address.unwrap_or(DnsAddr::Localhost(0)),
            preferred_namespace: preferred_namespace(r),
            resolv_conf: r.text_or_default(&RESOLV_CONF),
        }
    }
}

/// The misspelling is the name that users have in their deployments.
fn preferred_namespace(r: &mut Reader<'_>) -> Option<String> {
    let namespace = r.text(&PREFERRED_NAMESPACE)?;
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if namespace.len() <= 63 && namespace.bytes().all(label) {
        return Some(namespace.to_owned());
    }
    r.warn(PREFERRED_NAMESPACE.name, namespace, "ignored: not a namespace".into());
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
