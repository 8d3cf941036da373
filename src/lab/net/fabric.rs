//! The network between the hosts of a lab: one bridge in its own namespace, and a cable to each host.

use std::{
    fs, io,
    net::IpAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    Namespace, NetError,
    link::{FarEnd, LOOPBACK, Links},
};

/// The name of every host's interface to the fabric.
pub const UPLINK: &str = "eth0";
/// The index of that interface. Low indices may be taken: some kernels put tunnel devices into new namespaces.
pub const UPLINK_INDEX: u32 = 100;

const BRIDGE_INDEX: u32 = 100;

/// Settings that suit many short connections and let any source address pass. A kernel may lack some, or refuse them
/// to ordinary users; the lab then works less well.
const HOST_SETTINGS: [(&str, &str); 9] = [
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    // Otherwise a connection may get a port that a proxy is about to listen on.
    ("net/ipv4/ip_local_reserved_ports", "15000-15099"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_max_syn_backlog", "8192"),
    ("net/core/somaxconn", "8192"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];
/// Bridged packets need no firewall.
const FABRIC_SETTINGS: [(&str, &str); 2] =
    [("net/bridge/bridge-nf-call-iptables", "0"), ("net/bridge/bridge-nf-call-ip6tables", "0")];

/// A bridge. Every address is on the link: hosts need no gateway, and may have any address.
#[derive(Debug)]
pub struct Fabric {
    namespace: Namespace,
    ports: AtomicU32,
}

/// The end of a host's cable at the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(u32);

// === impl Fabric ===

impl Fabric {
    /// Makes the bridge in a new namespace called `name`.
    pub fn create(name: impl Into<String>) -> Result<Self, NetError> {
        let namespace = Namespace::create(name)?;
        namespace.run(|| {
            let mut links = Links::open(namespace.name())?;
            links.set_up(LOOPBACK, true)?;
            links.bridge("br0", BRIDGE_INDEX)?;
            set_all(&FABRIC_SETTINGS);
            Ok(())
        })??;
        Ok(Self { namespace, ports: AtomicU32::new(BRIDGE_INDEX + 1) })
    }

    /// The namespace with the bridge.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Plugs `host` in, and gives it `ips`, a working loopback, and a default route over the fabric.
    pub fn attach(&self, host: &Namespace, ips: &[IpAddr]) -> Result<Port, NetError> {
        let port = self.ports.fetch_add(1, Ordering::Relaxed);
        let name = format!("port{port}");
        host.run(|| set_all(&HOST_SETTINGS))?;
        self.namespace.run(|| {
            let far = FarEnd { name: UPLINK, index: UPLINK_INDEX, mac: mac(ips, port), namespace: host.fd() };
            Links::open(self.namespace.name())?.cable(&name, port, BRIDGE_INDEX, far)
        })??;
        host.run(|| {
            let mut links = Links::open(host.name())?;
            links.set_up(LOOPBACK, true)?;
            links.set_up(UPLINK_INDEX, true)?;
            let usable = |ip: &&IpAddr| ip.is_ipv4() || has_ipv6();
            for ip in ips.iter().filter(usable) {
                links.address(UPLINK_INDEX, *ip)?;
            }
            links.default_route(UPLINK_INDEX, false)?;
            if has_ipv6() {
                links.default_route(UPLINK_INDEX, true)?;
            }
            Ok(())
        })??;
        Ok(Port(port))
    }

    /// Disconnects a host, so that its packets are lost silently, or connects it again.
    pub fn set_connected(&self, port: Port, connected: bool) -> Result<(), NetError> {
        self.namespace.run(|| Links::open(self.namespace.name())?.set_up(port.0, connected))?
    }

    /// Removes a host's cable for good, so that another host can have its addresses at once.
    pub fn detach(&self, port: Port) -> Result<(), NetError> {
        self.namespace.run(|| Links::open(self.namespace.name())?.remove(port.0))?
    }
}

/// The hardware address of a host, made from its first IP address. A host that takes over the address is reached at
/// once, before the neighbours forget the old owner.
fn mac(ips: &[IpAddr], port: u32) -> [u8; 6] {
    let [a, b, c, d] = match ips.first() {
        Some(IpAddr::V4(v4)) => v4.octets(),
        Some(IpAddr::V6(v6)) => (v6.to_bits() as u32).to_be_bytes(),
        None => port.to_be_bytes(),
    };
    /// The first byte marks a locally administered address; the second byte separates the kinds of source.
    const LOCAL: u8 = 0x02;
    [LOCAL, ips.first().map_or(0, |ip| if ip.is_ipv4() { 4 } else { 6 }), a, b, c, d]
}

/// Whether the kernel has IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Writes each `(path under /proc/sys, value)` in the current namespace.
fn set_all(settings: &[(&str, &str)]) {
    for (path, value) in settings {
        if let Err(error) = set(path, value) {
            tracing::debug!(setting = path, value, %error, "the kernel keeps its own network setting");
        }
    }
}

fn set(path: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(path), value)
}
