//! What tunnels and control plane connections negotiate (docs/spec/dataplane.md 2.1 and 9).

use serde::Serialize;

use super::{reader::Reader, var::Var};

const TLS12_ENABLED: Var = Var::flag("TLS12_ENABLED", "false", "TLS 1.2 is offered besides 1.3.");
const COMPLIANCE_POLICY: Var = Var::new(
    "COMPLIANCE_POLICY",
    "`pqc`",
    "",
    "With `pqc`, X25519MLKEM768 is the only key exchange. Anything else is ignored with a warning.",
);
const CRL_PATH: Var = Var::text(
    "CRL_PATH",
    "",
    "The file of revocation lists, in PEM or DER. It is read again when it changes, and tunnels of revoked peers are cut.",
);
const CRL_REQUIRED: Var = Var::flag(
    "WARREN_CRL_REQUIRED",
    "false",
    "The proxy does not start without the lists of `CRL_PATH`, rather than warn and revoke nobody.",
);

/// What is negotiated and who is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsConfig {
    /// TLS 1.2 is offered besides 1.3.
    pub tls12: bool,
    /// A policy for algorithms.
    pub compliance: Option<Compliance>,
    /// The file of revocation lists.
    pub crl_path: Option<String>,
    /// The proxy does not start without the lists.
    pub crl_required: bool,
}

/// A policy for algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Compliance {
    /// X25519MLKEM768 is the only key exchange.
    Pqc,
}

impl TlsConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let config = Self {
            tls12: r.boolean(&TLS12_ENABLED),
            compliance: r.tolerate(&COMPLIANCE_POLICY, |policy| match policy {
                "pqc" => Ok(Compliance::Pqc),
                _ => Err("not pqc".into()),
            }),
            crl_path: r.text(&CRL_PATH).map(str::to_owned),
            crl_required: r.boolean(&CRL_REQUIRED),
        };
        if config.tls12 && config.compliance.is_some() {
            r.warn(TLS12_ENABLED.name, "true", "without effect: COMPLIANCE_POLICY=pqc needs TLS 1.3".into());
        }
        if config.crl_required && config.crl_path.is_none() {
            r.reject(&CRL_REQUIRED, "CRL_PATH names no file");
        }
        config
    }
}
