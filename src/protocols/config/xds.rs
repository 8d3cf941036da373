//! The discovery server (docs/spec/controlplane.md 2.1 and 2.7).

use serde::Serialize;

use super::{
    proxy_config::ProxyConfig,
    reader::Reader,
    summary,
    upstream::{Address, Names, Upstream},
    var::Var,
};

const XDS_ADDRESS: Var = Var::new(
    "XDS_ADDRESS",
    "address",
    "`discoveryAddress`, else `istiod.istio-system.svc:15012` in a cluster, else `localhost:15012`",
    "The discovery server, always by TLS. Set and empty, there is none.",
);
const NAMES: Names = Names {
    roots: Var::new("XDS_ROOT_CA", Names::ROOTS_FORM, Names::ROOTS_DEFAULT, Names::ROOTS_HELP),
    alt_hostname: Var::new("ALT_XDS_HOSTNAME", Names::HOSTNAME_FORM, "", Names::HOSTNAME_HELP),
    headers: Var::text("XDS_HEADER_*", "", Names::HEADERS_HELP),
};
pub(super) const ON_DEMAND: Var = Var::flag(
    "XDS_ON_DEMAND",
    "false",
    "Workloads and services are asked for as connections need them. The DNS proxy must be off.",
);
const LOCAL_XDS_PATH: Var = Var::new(
    "LOCAL_XDS_PATH",
    "path",
    "",
    "A YAML file with workloads, services and policies, read at the start.",
);
const LOCAL_XDS: Var = Var::new("LOCAL_XDS", "YAML", "", "The same as text. Only one of both may be set.");

/// Where the mesh's state comes from.
#[derive(Clone, Debug, Serialize)]
pub struct XdsConfig {
    /// The discovery server; none if it is disabled.
    pub upstream: Option<Upstream>,
    /// Ask for workloads and services as they are needed, instead of taking all.
    pub on_demand: bool,
    /// State read once at startup, besides the server's.
    pub local: Option<LocalSource>,
}

/// State read once at startup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum LocalSource {
    /// A YAML file.
    File(String),
    /// YAML text.
    Inline(#[serde(serialize_with = "summary::left_out")] String),
}

impl XdsConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        let address = match r.raw(&XDS_ADDRESS) {
            Some("") => None,
            Some(_) => r.parse(&XDS_ADDRESS, Address::parse),
            None => Some(proxy.discovery_address.clone().unwrap_or_else(|| Address::standard(r))),
        };
        let local = match (r.text(&LOCAL_XDS_PATH), r.text(&LOCAL_XDS)) {
            (Some(_), Some(_)) => {
                r.reject(&LOCAL_XDS_PATH, "LOCAL_XDS is set too");
                None
            }
            (Some(path), None) => Some(LocalSource::File(path.to_owned())),
            (None, text) => text.map(|text| LocalSource::Inline(text.to_owned())),
        };
        Self { upstream: Upstream::read(r, address, &NAMES), on_demand: r.boolean(&ON_DEMAND), local }
    }
}
