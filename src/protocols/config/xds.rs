//! The discovery server (docs/spec/controlplane.md 2.1 and 2.7).

use serde::Serialize;

use super::{
    proxy_config::ProxyConfig,
    reader::Reader,
    summary,
    upstream::{Address, Names, Upstream},
};

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
        let names =
            Names { roots: "XDS_ROOT_CA", alt_hostname: "ALT_XDS_HOSTNAME", header_prefix: "XDS_HEADER_" };
        let address = match r.raw("XDS_ADDRESS") {
            Some("") => None,
            Some(_) => r.parse("XDS_ADDRESS", Address::parse),
            None => Some(proxy.discovery_address.clone().unwrap_or_else(|| Address::standard(r))),
        };
        let local = match (r.text("LOCAL_XDS_PATH"), r.text("LOCAL_XDS")) {
            (Some(_), Some(_)) => {
                r.reject("LOCAL_XDS_PATH", "LOCAL_XDS is set too");
                None
            }
            (Some(path), None) => Some(LocalSource::File(path.to_owned())),
            (None, text) => text.map(|text| LocalSource::Inline(text.to_owned())),
        };
        Self {
            upstream: Upstream::read(r, address, &names),
            on_demand: r.boolean("XDS_ON_DEMAND", false),
            local,
        }
    }
}
