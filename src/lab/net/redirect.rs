//! The rules that redirect a pod's traffic to the proxy (docs/spec/dataplane.md 1.3, nftables variant).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Namespace, NetError, fabric,
    link::{Change, Links, MarkRule},
    nft::{Batch, ChainName, Hook, Kind, Rule, Verdict},
};

/// The mark that the proxy puts on its own packets.
pub const PROXY_MARK: u32 = 0x539;
/// The mark of connections that the proxy opened with a client's address as source.
pub const CONNECTION_MARK: u32 = 0x111;
/// The bits of a mark that the rules compare.
pub const MARK_MASK: u32 = 0xfff;
/// The source addresses of kubelet's probes, which bypass the proxy.
pub const PROBE_SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 7, 127)),
    IpAddr::V6(Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff)),
];

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const OUTBOUND_PORT: u16 = 15001;
const PLAINTEXT_PORT: u16 = 15006;
const HBONE_PORT: u16 = 15008;
const DNS_PROXY_PORT: u16 = 15053;
const DNS_PORT: u16 = 53;
const DNS_ZONE: u16 = 1;
const ROUTE_TABLE: u8 = 100;
const RULE: MarkRule =
    MarkRule { mark: CONNECTION_MARK, mask: MARK_MASK, priority: 32764, table: ROUTE_TABLE };

const NAT: &str = "istio-ambient-nat";
const MANGLE: &str = "istio-ambient-mangle";
const RAW: &str = "istio-ambient-raw";
const MUTE: &str = "mute";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const ISTIO_PREROUTING: &str = "istio-prerouting";
const ISTIO_OUTPUT: &str = "istio-output";
const PRIORITY_RAW: i32 = -300;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_NAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;

/// The redirection of a pod's traffic. The default suits a pod without annotations in a mesh without DNS capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirection {
    /// Whether DNS queries go to the proxy too (port 53, UDP and TCP).
    pub dns: bool,
    /// Whether inbound traffic bypasses the proxy (annotation `ambient.istio.io/bypass-inbound-capture`).
    pub bypass_inbound: bool,
    /// The interfaces whose incoming traffic counts as outbound (annotation `istio.io/reroute-virtual-interfaces`).
    pub virtual_interfaces: Vec<String>,
}

// === impl Redirection ===

impl Redirection {
    /// Puts the rules into `pod`. Errors: the pod has rules already, or the kernel refuses a rule, which the error
    /// names.
    pub fn apply(&self, pod: &Namespace) -> Result<(), NetError> {
        pod.run(|| {
            let mut links = Links::open(pod.name())?;
            for v6 in families() {
                links.local_route(Change::Add, ROUTE_TABLE, v6)?;
                links.mark_rule(Change::Add, RULE, v6)?;
            }
            self.rules().commit(pod.name())
        })?
    }

    /// Removes the rules of [`Self::apply`] from `pod`.
    pub fn remove(&self, pod: &Namespace) -> Result<(), NetError> {
        pod.run(|| {
            let mut batch = Batch::new();
            for table in [NAT, MANGLE].into_iter().chain(self.dns.then_some(RAW)) {
                batch.remove_table(table);
            }
            batch.commit(pod.name())?;
            let mut links = Links::open(pod.name())?;
            for v6 in families() {
                links.mark_rule(Change::Remove, RULE, v6)?;
                links.local_route(Change::Remove, ROUTE_TABLE, v6)?;
            }
            Ok(())
        })?
    }

    fn rules(&self) -> Batch {
        let mut batch = Batch::new();
        mangle(&mut batch);
        table(&mut batch, NAT, Kind::Nat, Kind::Nat, PRIORITY_NAT);
        self.inbound(&mut batch);
        self.outbound(&mut batch);
        if self.dns {
            raw(&mut batch);
        }
        batch
    }

    fn inbound(&self, batch: &mut Batch) {
        let chain = ChainName { table: NAT, chain: ISTIO_PREROUTING };
        for interface in &self.virtual_interfaces {
            let from = || Rule::new().entering_by(interface).tcp();
            batch.rule(chain, from().redirect(OUTBOUND_PORT));
            batch.rule(chain, from().verdict(Verdict::Return));
        }
        if self.bypass_inbound {
            return;
        }
        for probes in PROBE_SOURCES {
            batch.rule(chain, Rule::new().from(probes).tcp().verdict(Verdict::Accept));
        }
        for loopback in LOOPBACK {
            let rule = unmarked(Rule::new().not_to(loopback).tcp().not_port(HBONE_PORT));
            batch.rule(chain, rule.redirect(PLAINTEXT_PORT));
        }
    }

    fn outbound(&self, batch: &mut Batch) {
        let chain = ChainName { table: NAT, chain: ISTIO_OUTPUT };
        for probes in PROBE_SOURCES {
            batch.rule(chain, Rule::new().to(probes).tcp().verdict(Verdict::Accept));
        }
        if self.dns {
            let rule = Rule::new().not_leaving_by("lo").udp().port(DNS_PORT);
            batch.rule(chain, unmarked(rule).redirect(DNS_PROXY_PORT));
            for loopback in LOOPBACK {
                let rule = unmarked(Rule::new().not_to(loopback).tcp().port(DNS_PORT));
                batch.rule(chain, rule.redirect(DNS_PROXY_PORT));
            }
        }
        let ours = Rule::new().tcp().mark(CONNECTION_MARK, MARK_MASK);
        batch.rule(chain, ours.verdict(Verdict::Accept));
        for loopback in LOOPBACK {
            let local = Rule::new().not_to(loopback).leaving_by("lo");
            batch.rule(chain, local.verdict(Verdict::Accept));
        }
        for loopback in LOOPBACK {
            let rule = unmarked(Rule::new().not_to(loopback).tcp());
            batch.rule(chain, rule.redirect(OUTBOUND_PORT));
        }
    }
}

/// Adds rules to `pod` that drop every TCP packet that leaves it, redirected or not, or removes these rules.
pub fn set_mute(pod: &Namespace, mute: bool) -> Result<(), NetError> {
    pod.run(|| {
        let mut batch = Batch::new();
        if mute {
            batch.table(MUTE);
            let chain = ChainName { table: MUTE, chain: OUTPUT };
            batch.base_chain(chain, Kind::Filter, Hook::Output, PRIORITY_FILTER);
            batch.rule(chain, Rule::new().tcp().verdict(Verdict::Drop));
        } else {
            batch.remove_table(MUTE);
        }
        batch.commit(pod.name())
    })?
}

/// Adds rules to `pod` that drop every TCP packet that leaves it for one of `peers`, as a NetworkPolicy of the pod does.
pub fn mute_towards(pod: &Namespace, peers: &[IpAddr]) -> Result<(), NetError> {
    pod.run(|| {
        let mut batch = Batch::new();
        batch.table(MUTE);
        let chain = ChainName { table: MUTE, chain: OUTPUT };
        batch.base_chain(chain, Kind::Filter, Hook::Output, PRIORITY_FILTER);
        for peer in peers {
            batch.rule(chain, Rule::new().to(*peer).tcp().verdict(Verdict::Drop));
        }
        batch.commit(pod.name())
    })?
}

/// Adds the rules that remember the proxy's connections and mark the answers, so that the answers find the proxy's
/// socket.
fn mangle(batch: &mut Batch) {
    table(batch, MANGLE, Kind::Filter, Kind::Route, PRIORITY_MANGLE);
    let opened = Rule::new().mark(PROXY_MARK, MARK_MASK).set_connection_mark(CONNECTION_MARK, MARK_MASK);
    batch.rule(ChainName { table: MANGLE, chain: ISTIO_PREROUTING }, opened);
    let answer = Rule::new().connection_mark(CONNECTION_MARK, MARK_MASK).restore_mark();
    batch.rule(ChainName { table: MANGLE, chain: ISTIO_OUTPUT }, answer);
}

/// Adds the rules that track the DNS proxy's own queries apart from the pod's, which may use the same ports.
fn raw(batch: &mut Batch) {
    table(batch, RAW, Kind::Filter, Kind::Filter, PRIORITY_RAW);
    let query = Rule::new().udp().port(DNS_PORT).mark(PROXY_MARK, MARK_MASK);
    batch.rule(ChainName { table: RAW, chain: ISTIO_OUTPUT }, query.set_zone(DNS_ZONE));
    let answer = unmarked(Rule::new().udp().source_port(DNS_PORT));
    batch.rule(ChainName { table: RAW, chain: ISTIO_PREROUTING }, answer.set_zone(DNS_ZONE));
}

/// Adds a table with a base chain at each of the two hooks, which only jumps to Istio's chain.
fn table(batch: &mut Batch, table: &str, prerouting: Kind, output: Kind, priority: i32) {
    batch.table(table);
    let hooks = [
        (PREROUTING, ISTIO_PREROUTING, prerouting, Hook::Prerouting),
        (OUTPUT, ISTIO_OUTPUT, output, Hook::Output),
    ];
    for (base, own, kind, hook) in hooks {
        batch.base_chain(ChainName { table, chain: base }, kind, hook, priority);
        batch.chain(ChainName { table, chain: own });
        batch.rule(ChainName { table, chain: base }, Rule::new().verdict(Verdict::Jump(own)));
    }
}

fn unmarked(rule: Rule) -> Rule {
    rule.not_mark(PROXY_MARK, MARK_MASK)
}

/// `[false]` or `[false, true]`: IPv4, and IPv6 if the kernel has it.
fn families() -> impl Iterator<Item = bool> {
    [false, true].into_iter().filter(|v6| !v6 || fabric::has_ipv6())
}
