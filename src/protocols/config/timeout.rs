//! How long the proxy waits for anything: nothing waits for ever. The connect timeout and the pings are those
//! of docs/spec/dataplane.md 1.2 and 2.2, the wait for a workload that of docs/spec/dataplane.md 0; the rest is
//! ours.

use std::time::Duration;

use serde::Serialize;

use super::{
    reader::{Reader, defaults},
    summary,
    var::Var,
};

const CONNECT: Var = Var::duration("WARREN_CONNECT_TIMEOUT", "10s", "For a TCP connection.");
const TLS_HANDSHAKE: Var = Var::duration(
    "WARREN_TLS_HANDSHAKE_TIMEOUT",
    "5s",
    "For a TLS handshake. A client also gives the server the time of `WARREN_CERTIFICATE_TIMEOUT`.",
);
const H2_SETTINGS: Var = Var::duration(
    "WARREN_H2_SETTINGS_TIMEOUT",
    "5s",
    "For the start of HTTP/2, and for the answer to a tunnel's first PING.",
);
const CONNECT_RESPONSE: Var =
    Var::duration("WARREN_CONNECT_RESPONSE_TIMEOUT", "20s", "For the answer to a CONNECT.");
const WORKLOAD: Var = Var::duration(
    "WARREN_WORKLOAD_TIMEOUT",
    "5s",
    "For a workload, or a policy it names, that the control plane has not sent.",
);
const CERTIFICATE: Var =
    Var::duration("WARREN_CERTIFICATE_TIMEOUT", "10s", "For a certificate that is not issued yet.");
const POLICY: Var = Var::duration("WARREN_POLICY_TIMEOUT", "5s", "No effect.");
const PING_INTERVAL: Var =
    Var::duration("WARREN_PING_INTERVAL", "10s", "Silence before the peer of a tunnel is sent a PING.");
const PING: Var = Var::duration("WARREN_PING_TIMEOUT", "20s", "For the answer to a PING.");

/// The longest time that a server waits for its workload and certificate while a client waits in its handshake. Envoy
/// gives a connection 10 s, TLS included.
/// Limit: wait of a server for its own certificate: 8 s; past it: the peer's connection is closed.
const SERVER_READY_WITHIN: Duration = Duration::from_secs(8);

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

impl Default for TimeoutConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl TimeoutConfig {
    /// How long a server waits for its workload and certificate before it gives a client up.
    pub fn server_ready(&self) -> Duration {
        self.certificate.min(SERVER_READY_WITHIN)
    }

    /// How long a client gives a server for a handshake, which begins with the server's wait for its certificate.
    pub fn client_handshake(&self) -> Duration {
        self.certificate.saturating_add(self.tls_handshake)
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let mut timeout = |var| r.duration(var, Duration::from_millis(1)..=Duration::from_secs(3600));
        Self {
            connect: timeout(&CONNECT),
            tls_handshake: timeout(&TLS_HANDSHAKE),
            h2_settings: timeout(&H2_SETTINGS),
            connect_response: timeout(&CONNECT_RESPONSE),
            workload: timeout(&WORKLOAD),
            certificate: timeout(&CERTIFICATE),
            policy: timeout(&POLICY),
            ping_interval: timeout(&PING_INTERVAL),
            ping: timeout(&PING),
        }
    }
}
