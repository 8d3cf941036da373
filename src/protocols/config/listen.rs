//! What the proxy listens on and how it serves (docs/spec/dataplane.md 1).

use std::net::SocketAddr;

use serde::Serialize;

use super::{
    dns::DnsAddr,
    reader::{Reader, defaults},
    var::Var,
};

pub(super) const ENABLE_PROXY: Var = Var::flag(
    "ENABLE_PROXY",
    "true",
    "Connections are proxied. With `false` only the DNS proxy runs: nobody listens on 15001, 15006 and 15008. `false` \
     together with the DNS proxy off is refused.",
);
const IPV6_ENABLED: Var =
    Var::flag("IPV6_ENABLED", "true", "Listeners are on `[::]`. A pod without IPv6 gets IPv4.");
const ENABLE_ORIG_SRC: Var = Var::flag(
    "ENABLE_ORIG_SRC",
    "",
    "Applications see their client's address: always, never or, if unset, where that is permitted.",
);
const LOCALHOST_APP_TUNNEL: Var = Var::flag(
    "LOCALHOST_APP_TUNNEL",
    "true",
    "PROXY protocol tunnels end at the application's loopback address.",
);
const ENABLE_RESPONSE_BAGGAGE: Var = Var::flag(
    "ENABLE_RESPONSE_BAGGAGE",
    "true",
    "The answer to a CONNECT tells the peer of the workload, and what a CONNECT tells is believed, for telemetry.",
);
const UNSTABLE_ENABLE_SOCKS5: Var = Var::flag(
    "UNSTABLE_ENABLE_SOCKS5",
    "false",
    "Each pod has a SOCKS5 proxy on 127.0.0.1:15080, without authentication. Names need the DNS proxy.",
);

/// What the proxy listens on and how it serves.
#[derive(Clone, Debug, Serialize)]
pub struct ListenConfig {
    /// Connections are proxied; otherwise only DNS is.
    pub proxy: bool,
    /// Listen on IPv6 too.
    pub ipv6_enabled: bool,
    /// Applications see the client's address: always, never, or where it is permitted.
    pub orig_src: Option<bool>,
    /// PROXY protocol tunnels go to the application's loopback address.
    pub localhost_app_tunnel: bool,
    /// Answers to peers tell of workloads, and what peers tell is read, for telemetry.
    pub baggage: bool,
    /// Where the proxy listens.
    pub ports: Ports,
}

/// The proxy's own ports in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// Connections the pod opened.
    pub outbound: u16,
    /// Connections to the pod outside any tunnel.
    pub plaintext: u16,
    /// Tunnels to the pod.
    pub hbone: u16,
    /// SOCKS5, if enabled.
    pub socks5: Option<u16>,
    /// The DNS proxy, if enabled.
    pub dns: Option<DnsAddr>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl ListenConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            proxy: r.boolean(&ENABLE_PROXY),
            ipv6_enabled: r.boolean(&IPV6_ENABLED),
            orig_src: r.flag(&ENABLE_ORIG_SRC),
            localhost_app_tunnel: r.boolean(&LOCALHOST_APP_TUNNEL),
            baggage: r.boolean(&ENABLE_RESPONSE_BAGGAGE),
            ports: Ports {
                outbound: 15001,
                plaintext: 15006,
                hbone: 15008,
                socks5: r.boolean(&UNSTABLE_ENABLE_SOCKS5).then_some(15080),
                dns: None,
            },
        }
    }
}

impl ListenConfig {
    /// Without a mark on the proxy's packets, answers to a client's address do not come back to the proxy. So
    /// applications see the client's address only where that is asked for.
    pub(super) fn without_mark(&mut self, r: &mut Reader<'_>) {
        match self.orig_src {
            None => self.orig_src = Some(false),
            Some(true) => {
                let reason =
                    "without PACKET_MARK, answers to clients need rules that bring them to the proxy";
                r.warn(ENABLE_ORIG_SRC.name, "true", reason.into());
            }
            Some(false) => {}
        }
    }
}

impl Ports {
    /// Whether a connection to `addr` would come back to the proxy (docs/spec/dataplane.md 1.4). A DNS proxy that
    /// listens at one address of its own leaves the port to applications at other addresses.
    pub fn is_illegal(&self, addr: SocketAddr) -> bool {
        let port = addr.port();
        let dns = match self.dns {
            Some(DnsAddr::Localhost(dns)) => dns == port,
            Some(DnsAddr::Ip(dns)) => {
                let ip = dns.ip().to_canonical();
                dns.port() == port && (ip.is_unspecified() || ip == addr.ip().to_canonical())
            }
            None => false,
        };
        [self.outbound, self.plaintext, self.hbone].contains(&port) || self.socks5 == Some(port) || dns
    }
}
