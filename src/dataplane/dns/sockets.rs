//! The sockets of a pod's DNS proxy.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    dataplane::{config::DataPlaneConfig, dns_config::DnsProxyConfig, pod::network::PodNetwork},
    protocols::config::DnsAddr,
    sys::shared_socket::Shared,
};

/// The port (discard) from which no client sends queries.
/// No limit: the port (discard) that sockets which are given up are connected to.
const DISCARD_PORT: u16 = 9;
/// The number of connections that wait to be accepted.
/// Limit: DNS connections of a pod that wait to be accepted: 128; past it: the kernel drops them.
const DNS_LISTEN_BACKLOG: i32 = 128;

/// The sockets of one pod: a UDP socket and a TCP listener for each address. Clones share the sockets.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    /// The UDP sockets.
    pub(crate) datagrams: Vec<Shared<UdpSocket>>,
    /// The TCP listeners.
    pub(crate) listeners: Vec<Shared<TcpListener>>,
}

// === impl Sockets ===

impl Sockets {
    /// Binds new sockets in the pod's network.
    ///
    /// # Errors
    /// An address cannot be listened on. The error names the address.
    pub(super) fn bind(network: &PodNetwork, config: &DataPlaneConfig) -> Result<Self, String> {
        let Some(settings) = &config.dns else { return Err("the DNS proxy is off".into()) };
        let mut sockets = Self { datagrams: Vec::new(), listeners: Vec::new() };
        for addr in addresses(settings, config.listen.ipv6_enabled) {
            let bound = network.netns.enter(|| open(addr, config.inpod.port_reuse)).and_then(|bound| bound);
            match bound {
                Ok((datagrams, listener)) => {
                    sockets.datagrams.push(Shared::new(datagrams));
                    sockets.listeners.push(Shared::new(listener));
                }
                // A pod may be without IPv6 on a node that has IPv6.
                Err(error) if !sockets.datagrams.is_empty() && addr.is_ipv6() && is_unknown(&error) => {}
                Err(error) => return Err(format!("cannot answer DNS on {addr} in the pod: {error}")),
            }
        }
        Ok(sockets)
    }

    /// Keeps further datagrams from these sockets, while answers under way are still sent through them. A drop is not
    /// enough: tasks hold the sockets, and the kernel would still give the sockets a share of the port's queries.
    pub(super) fn retire(self) {
        for socket in &self.datagrams {
            let nobody = match socket.local_addr() {
                Ok(SocketAddr::V6(_)) => SocketAddr::from((Ipv6Addr::LOCALHOST, DISCARD_PORT)),
                _ => SocketAddr::from((Ipv4Addr::LOCALHOST, DISCARD_PORT)),
            };
            if let Err(error) = socket.connect(nobody) {
                tracing::warn!(target: "dns", %error, "a socket that is given up may still be asked");
            }
        }
    }
}

fn addresses(settings: &DnsProxyConfig, ipv6: bool) -> Vec<SocketAddr> {
    match settings.dns.address {
        DnsAddr::Ip(addr) => vec![addr],
        DnsAddr::Localhost(port) => {
            let v6 = ipv6.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
            [SocketAddr::from((Ipv4Addr::LOCALHOST, port))].into_iter().chain(v6).collect()
        }
    }
}

fn open(addr: SocketAddr, reuse_port: bool) -> io::Result<(UdpSocket, TcpListener)> {
    let make = |kind: Type, protocol| {
        let socket = Socket::new(Domain::for_address(addr), kind.nonblocking(), Some(protocol))?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        io::Result::Ok(socket)
    };
    let datagrams = make(Type::DGRAM, Protocol::UDP)?;
    datagrams.bind(&addr.into())?;
    let listener = make(Type::STREAM, Protocol::TCP)?;
    listener.set_reuse_address(true)?;
    listener.set_tcp_nodelay(true)?;
    listener.bind(&addr.into())?;
    listener.listen(DNS_LISTEN_BACKLOG)?;
    Ok((datagrams.into(), listener.into()))
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
