//! nf_tables rules in the kernel's form: tables, base chains, rules made of expressions, one atomic batch. Every
//! expression works on register 1, so a rule is a straight list of "load, compare" pairs and a verdict.

use std::net::IpAddr;

use super::{
    NetError,
    netlink::{ACK, APPEND, CREATE, Message, Netlink},
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const FAMILY_INET: u8 = 1;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const NFPROTO_V4: u8 = 2;
const NFPROTO_V6: u8 = 10;
const INTERFACE_NAME_BYTES: usize = 16;

/// A chain and its table.
#[derive(Clone, Copy)]
pub(super) struct ChainName<'a> {
    pub(super) table: &'a str,
    pub(super) chain: &'a str,
}

/// The hook of a base chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    Prerouting = 0,
    Output = 3,
}

/// The type of a base chain: `Route` looks up the route again when the mark has changed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Filter,
    Route,
    Nat,
}

/// The verdict on a packet that matched.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(&'static str),
}

/// Tables, chains and rules that take effect together or not at all.
pub(super) struct Batch(Vec<Message>);

/// One rule: conditions in order, then a verdict.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule(Vec<Expression>);

#[derive(Clone, Debug)]
enum Expression {
    Meta(u32),
    SetMeta(u32),
    Conntrack(u32),
    SetConntrack(u32),
    Payload { base: u32, offset: u32, length: u32 },
    Compare { equal: bool, value: Vec<u8> },
    Bits { mask: u32, xor: u32 },
    Load(Vec<u8>),
    Verdict(Verdict),
    Redirect,
}

const META_MARK: u32 = 3;
const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
const CONNTRACK_MARK: u32 = 3;
const CONNTRACK_ZONE: u32 = 17;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;

// === impl Batch ===

impl Batch {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn table(&mut self, table: &str) {
        let message = message(format!("make table inet {table}"), NEW_TABLE, CREATE | ACK);
        self.0.push(message.text(1, table));
    }

    pub(super) fn remove_table(&mut self, table: &str) {
        self.0.push(message(format!("remove table inet {table}"), DEL_TABLE, ACK).text(1, table));
    }

    /// Adds a chain that packets enter at a hook.
    pub(super) fn base_chain(
        &mut self,
        ChainName { table, chain }: ChainName<'_>,
        kind: Kind,
        hook: Hook,
        priority: i32,
    ) {
        let kind = match kind {
            Kind::Filter => "filter",
            Kind::Route => "route",
            Kind::Nat => "nat",
        };
        let message = message(format!("make chain {chain} of table inet {table}"), NEW_CHAIN, CREATE | ACK)
            .text(1, table);
        let message = message.text(3, chain).text(7, kind);
        self.0.push(message.nest(4, |m| m.be32(1, hook as u32).be32(2, priority.cast_unsigned())));
    }

    /// Adds a chain that packets enter by a jump.
    pub(super) fn chain(&mut self, ChainName { table, chain }: ChainName<'_>) {
        let what = format!("make chain {chain} of table inet {table}");
        self.0.push(message(what, NEW_CHAIN, CREATE | ACK).text(1, table).text(3, chain));
    }

    /// Appends a rule.
    pub(super) fn rule(&mut self, ChainName { table, chain }: ChainName<'_>, rule: Rule) {
        let what = format!("add a rule to chain {chain} of table inet {table}");
        let message = message(what, NEW_RULE, CREATE | APPEND | ACK).text(1, table).text(2, chain);
        let encode = |m| rule.0.iter().fold(m, |m: Message, expression| m.nest(1, |m| expression.encode(m)));
        self.0.push(message.nest(4, encode));
    }

    /// Puts the whole batch into effect in the current namespace, which `namespace` names in errors.
    pub(super) fn commit(self, namespace: &str) -> Result<(), NetError> {
        let edge = |kind| Message::new("send a batch", kind, 0, &nfgenmsg(0, SUBSYSTEM));
        let mut messages = vec![edge(BATCH_BEGIN)];
        messages.extend(self.0);
        messages.push(edge(BATCH_END));
        Netlink::open(libc::NETLINK_NETFILTER, namespace)?.exchange(messages)
    }
}

// === impl Rule ===

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Matches TCP packets.
    pub(super) fn tcp(self) -> Self {
        self.protocol(libc::IPPROTO_TCP as u8)
    }

    /// Matches UDP packets.
    pub(super) fn udp(self) -> Self {
        self.protocol(libc::IPPROTO_UDP as u8)
    }

    /// Matches packets of this address's family that come from the address.
    pub(super) fn from(self, ip: IpAddr) -> Self {
        let offset = if ip.is_ipv4() { 12 } else { 8 };
        self.address(ip, offset, true)
    }

    /// Matches packets of this address's family that go to the address.
    pub(super) fn to(self, ip: IpAddr) -> Self {
        let offset = if ip.is_ipv4() { 16 } else { 24 };
        self.address(ip, offset, true)
    }

    /// Matches packets of this address's family that go to another address.
    pub(super) fn not_to(self, ip: IpAddr) -> Self {
        let offset = if ip.is_ipv4() { 16 } else { 24 };
        self.address(ip, offset, false)
    }

    /// Matches the source port; the rule must have matched the protocol before.
    pub(super) fn source_port(self, port: u16) -> Self {
        self.payload(BASE_TRANSPORT, 0, 2).compare(true, port.to_be_bytes().to_vec())
    }

    /// Matches the destination port; the rule must have matched the protocol before.
    pub(super) fn port(self, port: u16) -> Self {
        self.payload(BASE_TRANSPORT, 2, 2).compare(true, port.to_be_bytes().to_vec())
    }

    /// Matches any destination port but this; the rule must have matched the protocol before.
    pub(super) fn not_port(self, port: u16) -> Self {
        self.payload(BASE_TRANSPORT, 2, 2).compare(false, port.to_be_bytes().to_vec())
    }

    /// Matches packets that enter by this interface.
    pub(super) fn entering_by(self, name: &str) -> Self {
        self.push(Expression::Meta(META_IN_NAME)).compare(true, interface(name))
    }

    /// Matches packets that leave by this interface.
    pub(super) fn leaving_by(self, name: &str) -> Self {
        self.push(Expression::Meta(META_OUT_NAME)).compare(true, interface(name))
    }

    /// Matches packets that leave by another interface.
    pub(super) fn not_leaving_by(self, name: &str) -> Self {
        self.push(Expression::Meta(META_OUT_NAME)).compare(false, interface(name))
    }

    /// Matches packets whose mark under `mask` is `mark`.
    pub(super) fn mark(self, mark: u32, mask: u32) -> Self {
        self.masked(Expression::Meta(META_MARK), mask).compare(true, mark.to_ne_bytes().to_vec())
    }

    /// Matches packets whose mark under `mask` is not `mark`.
    pub(super) fn not_mark(self, mark: u32, mask: u32) -> Self {
        self.masked(Expression::Meta(META_MARK), mask).compare(false, mark.to_ne_bytes().to_vec())
    }

    /// Matches packets whose connection's mark under `mask` is `mark`.
    pub(super) fn connection_mark(self, mark: u32, mask: u32) -> Self {
        self.masked(Expression::Conntrack(CONNTRACK_MARK), mask).compare(true, mark.to_ne_bytes().to_vec())
    }

    /// Sets the bits `mask` of the connection's mark to `mark`.
    pub(super) fn set_connection_mark(self, mark: u32, mask: u32) -> Self {
        let load = self.push(Expression::Conntrack(CONNTRACK_MARK));
        load.push(Expression::Bits { mask: !mask, xor: mark }).push(Expression::SetConntrack(CONNTRACK_MARK))
    }

    /// Copies the connection's mark to the packet.
    pub(super) fn restore_mark(self) -> Self {
        self.push(Expression::Conntrack(CONNTRACK_MARK)).push(Expression::SetMeta(META_MARK))
    }

    /// Tracks the packet in a separate zone.
    pub(super) fn set_zone(self, zone: u16) -> Self {
        self.push(Expression::Load(zone.to_ne_bytes().to_vec()))
            .push(Expression::SetConntrack(CONNTRACK_ZONE))
    }

    /// Redirects the packet to a local port.
    pub(super) fn redirect(self, port: u16) -> Self {
        self.push(Expression::Load(port.to_be_bytes().to_vec())).push(Expression::Redirect)
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        self.push(Expression::Verdict(verdict))
    }

    fn protocol(self, protocol: u8) -> Self {
        self.push(Expression::Meta(META_PROTOCOL)).compare(true, vec![protocol])
    }

    fn address(self, ip: IpAddr, offset: u32, equal: bool) -> Self {
        let (family, octets) = match ip {
            IpAddr::V4(v4) => (NFPROTO_V4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (NFPROTO_V6, v6.octets().to_vec()),
        };
        let length = if family == NFPROTO_V4 { 4 } else { 16 };
        let load = self.push(Expression::Meta(META_FAMILY)).compare(true, vec![family]);
        load.payload(BASE_NETWORK, offset, length).compare(equal, octets)
    }

    fn masked(self, load: Expression, mask: u32) -> Self {
        self.push(load).push(Expression::Bits { mask, xor: 0 })
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.push(Expression::Payload { base, offset, length })
    }

    fn compare(self, equal: bool, value: Vec<u8>) -> Self {
        self.push(Expression::Compare { equal, value })
    }

    fn push(mut self, expression: Expression) -> Self {
        self.0.push(expression);
        self
    }
}

// === impl Expression ===

impl Expression {
    fn encode(&self, message: Message) -> Message {
        let data = |m: Message, kind: u16, value: &[u8]| m.nest(kind, |m| m.attr(1, value));
        let name = match self {
            Self::Meta(_) | Self::SetMeta(_) => "meta",
            Self::Conntrack(_) | Self::SetConntrack(_) => "ct",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Bits { .. } => "bitwise",
            Self::Load(_) | Self::Verdict(_) => "immediate",
            Self::Redirect => "redir",
        };
        message.text(1, name).nest(2, |m| match self {
            Self::Meta(key) => m.be32(1, REGISTER).be32(2, *key),
            Self::SetMeta(key) => m.be32(2, *key).be32(3, REGISTER),
            Self::Conntrack(key) => m.be32(1, REGISTER).be32(2, *key),
            Self::SetConntrack(key) => m.be32(2, *key).be32(4, REGISTER),
            Self::Payload { base, offset, length } => {
                m.be32(1, REGISTER).be32(2, *base).be32(3, *offset).be32(4, *length)
            }
            Self::Compare { equal, value } => data(m.be32(1, REGISTER).be32(2, u32::from(!equal)), 3, value),
            Self::Bits { mask, xor } => {
                let m = m.be32(1, REGISTER).be32(2, REGISTER).be32(3, 4);
                data(data(m, 4, &mask.to_ne_bytes()), 5, &xor.to_ne_bytes())
            }
            Self::Load(value) => data(m.be32(1, REGISTER), 2, value),
            Self::Verdict(verdict) => {
                m.be32(1, VERDICT_REGISTER).nest(2, |m| m.nest(2, |m| verdict.encode(m)))
            }
            Self::Redirect => m.be32(1, REGISTER),
        })
    }
}

// === impl Verdict ===

impl Verdict {
    fn encode(&self, message: Message) -> Message {
        match self {
            Self::Accept => message.be32(1, 1),
            Self::Drop => message.be32(1, 0),
            Self::Return => message.be32(1, (-5_i32).cast_unsigned()),
            Self::Jump(chain) => message.be32(1, (-3_i32).cast_unsigned()).text(2, chain),
        }
    }
}

fn message(what: String, kind: u16, flags: u16) -> Message {
    Message::new(what, (SUBSYSTEM << 8) | kind, flags, &nfgenmsg(FAMILY_INET, 0))
}

/// `struct nfgenmsg`: family, version 0, resource id in network byte order.
fn nfgenmsg(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_BYTES, 0);
    bytes
}
