//! Settings of the data plane.

use std::time::Duration;

use super::dns::DnsSettings;
use crate::{
    protocols::{hbone::Http2Settings, route::IllegalPorts},
    sys::socket::Keepalive,
};

/// Settings of the data plane (docs/spec/dataplane.md 1 and 2).
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Network of this node.
    pub network: String,
    /// Listen on `[::]` rather than `0.0.0.0`.
    pub ipv6: bool,
    /// `SO_MARK` of sockets in pods.
    pub mark: Option<u32>,
    /// `SO_REUSEPORT` on listeners.
    pub reuse_port: bool,
    /// Connect to applications as the client: required, forbidden, or where permitted.
    pub original_source: Option<bool>,
    /// TCP keepalive, if on.
    pub keepalive: Option<Keepalive>,
    /// Connections whose round trip is shorter are not paced though that is the host's default; zero: only those within
    /// the host are not.
    pub unpaced_rtt: Duration,
    /// HTTP/2 of tunnels.
    pub http2: Http2Settings,
    /// Bounds of tunnels.
    pub pool: PoolSettings,
    /// Bounds of each step.
    pub timeouts: Timeouts,
    /// What telemetry and delivery do beyond the plain case.
    pub options: Options,
    /// Ports of our own that nobody may reach through us.
    pub illegal_ports: IllegalPorts,
    /// How names are answered, if they are.
    pub dns: Option<DnsSettings>,
}

/// Bounds of the tunnels of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolSettings {
    /// Streams on one connection.
    pub max_streams: usize,
    /// How long an unused tunnel is kept.
    pub unused_release: Duration,
    /// A PING is sent this long after the last answer.
    pub ping_interval: Duration,
    /// A tunnel is dead when a PING is not answered within this.
    pub ping_timeout: Duration,
}

/// Bounds of waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// TCP connect.
    pub connect: Duration,
    /// TLS handshake, either end.
    pub tls: Duration,
    /// HTTP/2 preface and settings.
    pub http2: Duration,
    /// Answer to a CONNECT.
    pub response: Duration,
    /// A workload or policy not known yet.
    pub workload: Duration,
    /// A certificate not there yet.
    pub certificate: Duration,
}

/// Switches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Send and read baggage for telemetry.
    pub baggage: bool,
    /// Hand PROXY protocol tunnels to the application on loopback.
    pub localhost_app_tunnel: bool,
    /// Log policy decisions at info.
    pub policy_log: bool,
    /// Join pods of this node without a tunnel.
    pub local_join: bool,
    /// Send what a client has said already along with the CONNECT.
    pub early_data: bool,
}
