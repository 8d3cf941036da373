//! Interfaces, addresses, routes and rules: the rtnetlink requests that the lab needs.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{
    NetError,
    netlink::{ACK, CREATE, EXCLUSIVE, Message, Netlink},
};

/// The interface index of loopback in every namespace.
pub(super) const LOOPBACK: u32 = 1;

const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DEL_RULE: u16 = 33;

const UP: u32 = 1;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const ROUTE_UNICAST: u8 = 1;
const ROUTE_LOCAL: u8 = 2;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const NO_DUPLICATE_DETECTION: u8 = 0x02;

/// A rule that routes packets with a firewall mark by a separate table.
#[derive(Clone, Copy, Debug)]
pub(super) struct MarkRule {
    pub(super) mark: u32,
    pub(super) mask: u32,
    pub(super) priority: u32,
    pub(super) table: u8,
}

/// The end of a cable in another namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct FarEnd<'a> {
    pub(super) name: &'a str,
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) namespace: BorrowedFd<'a>,
}

/// Whether a change adds or removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

/// The rtnetlink socket of one namespace.
pub(super) struct Links(Netlink);

// === impl Links ===

impl Links {
    /// Opens rtnetlink in the current namespace.
    pub(super) fn open(namespace: &str) -> Result<Self, NetError> {
        Netlink::open(libc::NETLINK_ROUTE, namespace).map(Self)
    }

    /// Makes a bridge and sets it up.
    pub(super) fn bridge(&mut self, name: &str, index: u32) -> Result<(), NetError> {
        let what = format!("make bridge {name}");
        let message = Message::new(what, NEW_LINK, ACK | CREATE | EXCLUSIVE, &link(index, UP))
            .text(3, name)
            .nest(18, |m| m.text(1, "bridge"));
        self.0.exchange(vec![message])
    }

    /// Makes a cable: this end is up and in `bridge`, the other end is in another namespace.
    pub(super) fn cable(
        &mut self,
        name: &str,
        index: u32,
        bridge: u32,
        far: FarEnd<'_>,
    ) -> Result<(), NetError> {
        let FarEnd { name: peer, index: peer_index, mac, namespace } = far;
        let what = format!("make veth pair {name} and {peer}");
        let namespace = namespace.as_raw_fd().cast_unsigned();
        let message = Message::new(what, NEW_LINK, ACK | CREATE | EXCLUSIVE, &link(index, UP))
            .text(3, name)
            .u32(10, bridge)
            .nest(18, |m| {
                m.text(1, "veth").nest(2, |m| {
                    m.nest(1, |m| m.raw(&link(peer_index, 0)).text(3, peer).attr(1, &mac).u32(28, namespace))
                })
            });
        self.0.exchange(vec![message])
    }

    /// Sets an interface up or down.
    pub(super) fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetError> {
        let what = format!("take interface {index} {}", if up { "up" } else { "down" });
        let mut fixed = link(index, UP);
        if !up {
            fixed[8..12].fill(0);
        }
        self.0.exchange(vec![Message::new(what, NEW_LINK, ACK, &fixed)])
    }

    /// Removes an interface.
    pub(super) fn remove(&mut self, index: u32) -> Result<(), NetError> {
        self.0.exchange(vec![Message::new(
            format!("remove interface {index}"),
            DEL_LINK,
            ACK,
            &link(index, 0),
        )])
    }

    /// Gives an interface a single address (/32 or /128), usable at once.
    pub(super) fn address(&mut self, index: u32, ip: IpAddr) -> Result<(), NetError> {
        let flags = if ip.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
        let mut fixed = vec![family(ip.is_ipv6()), bits(ip), flags, SCOPE_UNIVERSE];
        fixed.extend(index.to_ne_bytes());
        let message =
            Message::new(format!("add address {ip}"), NEW_ADDRESS, ACK | CREATE | EXCLUSIVE, &fixed);
        let octets = octets(ip);
        self.0.exchange(vec![message.attr(2, &octets).attr(1, &octets)])
    }

    /// Routes all traffic without a better route out of interface `index`, as if all addresses were on its link.
    pub(super) fn default_route(&mut self, index: u32, v6: bool) -> Result<(), NetError> {
        let scope = if v6 { SCOPE_UNIVERSE } else { SCOPE_LINK };
        let fixed = route(v6, TABLE_MAIN, scope, ROUTE_UNICAST);
        let message = Message::new("add the default route", NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &fixed);
        self.0.exchange(vec![message.u32(4, index)])
    }

    /// Adds or removes the route of `table` that treats every address as a local one.
    pub(super) fn local_route(&mut self, change: Change, table: u8, v6: bool) -> Result<(), NetError> {
        let (kind, flags) = change.of(NEW_ROUTE, DEL_ROUTE);
        let what = format!("{change} the local route of table {table}");
        let message = Message::new(what, kind, flags, &route(v6, table, SCOPE_HOST, ROUTE_LOCAL));
        self.0.exchange(vec![message.u32(4, LOOPBACK)])
    }

    /// Adds or removes a policy rule.
    pub(super) fn mark_rule(&mut self, change: Change, rule: MarkRule, v6: bool) -> Result<(), NetError> {
        const ACTION_TO_TABLE: u8 = 1;
        let (kind, flags) = change.of(NEW_RULE, DEL_RULE);
        let what = format!("{change} the rule for mark {:#x}", rule.mark);
        let fixed = [family(v6), 0, 0, 0, rule.table, 0, 0, ACTION_TO_TABLE, 0, 0, 0, 0];
        let message = Message::new(what, kind, flags, &fixed);
        self.0.exchange(vec![message.u32(6, rule.priority).u32(10, rule.mark).u32(16, rule.mask)])
    }
}

// === impl Change ===

impl Change {
    fn of(self, add: u16, remove: u16) -> (u16, u16) {
        match self {
            Self::Add => (add, ACK | CREATE | EXCLUSIVE),
            Self::Remove => (remove, ACK),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Add { "add" } else { "remove" })
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

/// `struct rtmsg` without a destination, which means all addresses.
fn route(v6: bool, table: u8, scope: u8, kind: u8) -> [u8; 12] {
    [family(v6), 0, 0, 0, table, PROTOCOL_STATIC, scope, kind, 0, 0, 0, 0]
}

fn family(v6: bool) -> u8 {
    if v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { 128 } else { 32 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
