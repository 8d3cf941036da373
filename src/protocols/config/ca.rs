//! The certificate authority (docs/spec/controlplane.md 3).

use std::time::Duration;

use serde::Serialize;

use super::{
    proxy_config::ProxyConfig,
    reader::Reader,
    summary,
    upstream::{Address, Names, Upstream},
};

/// No limit: a unit of time.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where certificates come from.
#[derive(Clone, Debug, Serialize)]
pub struct CaConfig {
    /// The certificate authority; none for a fake one, which only test builds have.
    pub upstream: Option<Upstream>,
    /// How long certificates are asked to be valid, in whole seconds.
    #[serde(serialize_with = "summary::duration")]
    pub secret_ttl: Duration,
}

impl CaConfig {
    pub(super) fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        let names =
            Names { roots: "CA_ROOT_CA", alt_hostname: "ALT_CA_HOSTNAME", header_prefix: "CA_HEADER_" };
        let fake = r.boolean("FAKE_CA", false);
        if fake && !r.inputs.fake_ca_allowed {
            r.reject("FAKE_CA", "this build has no fake certificate authority");
        }
        let address = match r.raw("CA_ADDRESS") {
            _ if fake => None,
            Some("") => {
                r.reject("CA_ADDRESS", "without a certificate authority no workload has an identity");
                None
            }
            Some(_) => r.parse("CA_ADDRESS", Address::parse),
            None => Some(proxy.discovery_address.clone().unwrap_or_else(|| Address::standard(r))),
        };
        let most = 3650 * DAY;
        Self {
            upstream: Upstream::read(r, address, &names),
            secret_ttl: r.duration("SECRET_TTL", DAY, Duration::from_secs(1)..=most),
        }
    }
}
