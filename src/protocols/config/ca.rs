//! The certificate authority (docs/spec/controlplane.md 3).

use std::time::Duration;

use serde::Serialize;

use super::{
    reader::Reader,
    summary,
    upstream::{Address, Names, Upstream},
    var::Var,
};

const CA_ADDRESS: Var = Var::new(
    "CA_ADDRESS",
    "address",
    "`istiod.istio-system.svc:15012` in a cluster, else `localhost:15012`",
    "The certificate authority, always by TLS. Set and empty, it is refused.",
);
const NAMES: Names = Names {
    roots: Var::new("CA_ROOT_CA", Names::ROOTS_FORM, Names::ROOTS_DEFAULT, Names::ROOTS_HELP),
    alt_hostname: Var::new("ALT_CA_HOSTNAME", Names::HOSTNAME_FORM, "", Names::HOSTNAME_HELP),
    headers: Var::text("CA_HEADER_*", "", Names::HEADERS_HELP),
};
const SECRET_TTL: Var =
    Var::duration("SECRET_TTL", "24h", "The validity that certificates are asked for with.");
const FAKE_CA: Var = Var::flag(
    "FAKE_CA",
    "false",
    "For tests only: certificates are signed with a key that everybody knows, so that anybody can \
        be anyone. Builds without the lab, such as the image, refuse `true`.",
);

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
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let address = r.raw(&CA_ADDRESS);
        let fake = r.boolean(&FAKE_CA);
        if fake && !r.inputs.fake_ca_allowed {
            r.reject(&FAKE_CA, "this build has no fake certificate authority");
        }
        let address = match address {
            _ if fake => None,
            Some("") => {
                r.reject(&CA_ADDRESS, "without a certificate authority no workload has an identity");
                None
            }
            Some(_) => r.parse(&CA_ADDRESS, Address::parse),
            None => Some(Address::standard(r)),
        };
        let most = 3650 * DAY;
        Self {
            upstream: Upstream::read(r, address, &NAMES),
            secret_ttl: r.duration(&SECRET_TTL, Duration::from_secs(1)..=most),
        }
    }
}
