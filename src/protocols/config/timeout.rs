//! How long the proxy waits for anything: nothing waits for ever. The connect timeout and the pings are those
//! of docs/spec/dataplane.md 1.2 and 2.2, the wait for a workload that of docs/spec/dataplane.md 0; the rest is
//! ours.

use std::time::Duration;

use serde::Serialize;

use super::{reader::Reader, summary};

/// How long the proxy waits for anything.
#[derive(Clone, Debug, Serialize)]
pub struct TimeoutConfig {
    /// A TCP connection.
    #[serde(serialize_with = "summary::duration")]
    pub connect: Duration,
    /// A TLS handshake.
    #[serde(serialize_with = "summary::duration")]
    pub tls_handshake: Duration,
    /// A peer's HTTP/2 SETTINGS.
    #[serde(serialize_with = "summary::duration")]
    pub h2_settings: Duration,
    /// The answer to a CONNECT.
    #[serde(serialize_with = "summary::duration")]
    pub connect_response: Duration,
    /// A workload the control plane has not sent.
    #[serde(serialize_with = "summary::duration")]
    pub workload: Duration,
    /// A certificate that is not issued.
    #[serde(serialize_with = "summary::duration")]
    pub certificate: Duration,
    /// A policy that a workload names and the control plane has not sent.
    #[serde(serialize_with = "summary::duration")]
    pub policy: Duration,
    /// Silence before a tunnel's peer is pinged.
    #[serde(serialize_with = "summary::duration")]
    pub ping_interval: Duration,
    /// The answer to a ping, before the tunnel counts as dead.
    #[serde(serialize_with = "summary::duration")]
    pub ping: Duration,
}

impl TimeoutConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let mut seconds = |name, default| {
            let range = Duration::from_millis(1)..=Duration::from_secs(3600);
            r.duration(name, Duration::from_secs(default), range)
        };
        Self {
            connect: seconds("WARREN_CONNECT_TIMEOUT", 10),
            tls_handshake: seconds("WARREN_TLS_HANDSHAKE_TIMEOUT", 5),
            h2_settings: seconds("WARREN_H2_SETTINGS_TIMEOUT", 5),
            connect_response: seconds("WARREN_CONNECT_RESPONSE_TIMEOUT", 20),
            workload: seconds("WARREN_WORKLOAD_TIMEOUT", 5),
            certificate: seconds("WARREN_CERTIFICATE_TIMEOUT", 10),
            policy: seconds("WARREN_POLICY_TIMEOUT", 5),
            ping_interval: seconds("WARREN_PING_INTERVAL", 10),
            ping: seconds("WARREN_PING_TIMEOUT", 20),
        }
    }
}
