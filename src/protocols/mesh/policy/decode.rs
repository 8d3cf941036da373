//! Decoding of policies. What cannot be decoded is unknown, and is named in the refusal to the control plane.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use prost::Message;

use super::{Action, Attribute, Clause, Match, Policy, Rule, Scope, ServiceAccount, Test, Text};
use crate::protocols::pb::security as pb;

/// A part of a policy that could not be decoded. The part is unknown, and the rest of the policy applies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The bytes are no policy; the text says where the bytes break off.
    #[error("{0}")]
    Bytes(String),
    /// The scope is unknown.
    #[error("scope: unknown value {0}")]
    Scope(i32),
    /// The action is unknown.
    #[error("action: unknown value {0}")]
    Action(i32),
    /// An address is neither 4 nor 16 bytes long.
    #[error("{at}: {bytes} bytes are no IP address")]
    Address {
        /// The place of the value.
        at: At,
        /// The length of the address in bytes.
        bytes: usize,
    },
    /// A prefix is longer than its address, or ends within the mapping prefix of an IPv4-mapped IPv6 address.
    #[error("{at}: {length} is no prefix length of {ip}")]
    Prefix {
        /// The place of the value.
        at: At,
        /// The address.
        ip: IpAddr,
        /// The prefix length in bits.
        length: u32,
    },
    /// A pattern sets neither exact, prefix, suffix nor presence.
    #[error("{0}: no kind of string match is set")]
    Text(At),
    /// A port is larger than 65,535.
    #[error("{at}: {port} is no port")]
    Port {
        /// The place of the value.
        at: At,
        /// The wire value.
        port: u32,
    },
}

/// The parts of a policy that could not be decoded: the first, and the number of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    first: Option<PolicyError>,
    count: usize,
}

/// The place of a value in a policy, by wire names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    rule: usize,
    clause: usize,
    matching: usize,
    field: &'static str,
    index: usize,
}

// === impl Policy ===

impl Policy {
    /// Compiles the policy named `key` on the wire (docs/spec/protos.md 2). What cannot be decoded is unknown in the
    /// policy, and is among the faults.
    ///
    /// A scope that is unknown is [`Scope::Unknown`]. An action that is unknown is a DENY: the connections that the
    /// policy is about are refused.
    pub fn decode(key: &str, policy: pb::Authorization) -> (Self, Faults) {
        let mut faults = Faults::default();
        let scope = pb::Scope::try_from(policy.scope).map_err(|_| PolicyError::Scope(policy.scope));
        let scope = match faults.note(scope) {
            Some(pb::Scope::Global) => Scope::Global,
            Some(pb::Scope::Namespace) => Scope::Namespace,
            Some(pb::Scope::WorkloadSelector) => Scope::WorkloadSelector,
            None => Scope::Unknown,
        };
        let action = pb::Action::try_from(policy.action).map_err(|_| PolicyError::Action(policy.action));
        let action = match faults.note(action) {
            Some(pb::Action::Allow) => Action::Allow,
            Some(pb::Action::Deny) | None => Action::Deny,
        };
        let mut at = At::start();
        let mut rules = Vec::with_capacity(policy.rules.len());
        for (rule, wire) in policy.rules.into_iter().enumerate() {
            at.rule = rule;
            rules.push(Rule::decode(&mut at, wire, &mut faults));
        }
        let namespace = if policy.namespace.is_empty() { namespace_of(key) } else { &policy.namespace };
        let compiled = Self {
            key: key.into(),
            name: policy.name.into(),
            namespace: namespace.into(),
            scope,
            action,
            dry_run: policy.dry_run,
            rules: rules.into(),
        };
        (compiled, faults)
    }

    /// Compiles the policy of these bytes as [`Self::decode`] does. Of bytes that are no policy only a scope that was
    /// read before the fault is known, as in [`Self::unread`].
    pub fn read(key: &str, bytes: &[u8]) -> (Self, Faults) {
        let mut wire = pb::Authorization::default();
        match wire.merge(bytes) {
            Ok(()) => Self::decode(key, wire),
            Err(error) => {
                let scope = match pb::Scope::try_from(wire.scope) {
                    Ok(pb::Scope::Namespace) => Scope::Namespace,
                    Ok(pb::Scope::WorkloadSelector) => Scope::WorkloadSelector,
                    // A scope of 0 may be one that was not reached.
                    Ok(pb::Scope::Global) | Err(_) => Scope::Unknown,
                };
                (Self { scope, ..Self::unread(key) }, Faults::one(PolicyError::Bytes(error.to_string())))
            }
        }
    }

    /// A policy of which only the key is known. Every connection in its scope may match, so none is let in.
    pub fn unread(key: &str) -> Self {
        let attribute = Attribute::DestinationPorts(Box::default());
        let test = Test { negated: false, attribute, unknown: true };
        let clause = Clause([Match([test].into())].into());
        Self {
            key: key.into(),
            name: Box::default(),
            namespace: namespace_of(key).into(),
            scope: Scope::Unknown,
            action: Action::Deny,
            dry_run: false,
            rules: [Rule([clause].into())].into(),
        }
    }
}

/// The namespace of a key `namespace/name`.
fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

// === impl Rule, Clause, Match ===

impl Rule {
    fn decode(at: &mut At, wire: pb::Rule, faults: &mut Faults) -> Self {
        let mut clauses = Vec::with_capacity(wire.clauses.len());
        for (clause, wire) in wire.clauses.into_iter().enumerate() {
            at.clause = clause;
            clauses.push(Clause::decode(at, wire, faults));
        }
        Self(clauses.into())
    }
}

impl Clause {
    fn decode(at: &mut At, wire: pb::Clause, faults: &mut Faults) -> Self {
        let mut matches = Vec::with_capacity(wire.matches.len());
        for (matching, wire) in wire.matches.into_iter().enumerate() {
            at.matching = matching;
            matches.push(Match::decode(*at, wire, faults));
        }
        Self(matches.into())
    }
}

impl Match {
    fn decode(at: At, wire: pb::Match, faults: &mut Faults) -> Self {
        use Attribute::{
            DestinationIps, DestinationPorts, Namespaces, Principals, ServiceAccounts, SourceIps,
        };
        let mut tests = Vec::new();
        let mut add = |negated, (attribute, unknown): (Attribute, bool)| {
            if unknown || !attribute.is_empty() {
                tests.push(Test { negated, attribute, unknown });
            }
        };
        let mut ports = |field, values| at.list(field, values, port, (DestinationPorts, &mut *faults));
        add(false, ports("destination_ports", wire.destination_ports));
        add(true, ports("not_destination_ports", wire.not_destination_ports));
        let mut ips = |field, values, of: fn(_) -> _| at.list(field, values, network, (of, &mut *faults));
        add(false, ips("destination_ips", wire.destination_ips, DestinationIps));
        add(true, ips("not_destination_ips", wire.not_destination_ips, DestinationIps));
        add(false, ips("source_ips", wire.source_ips, SourceIps));
        add(true, ips("not_source_ips", wire.not_source_ips, SourceIps));
        let accounts = |values: Vec<_>| (ServiceAccounts(values.into_iter().map(account).collect()), false);
        add(false, accounts(wire.service_accounts));
        add(true, accounts(wire.not_service_accounts));
        let mut texts = |field, values, of: fn(_) -> _| at.list(field, values, text, (of, &mut *faults));
        add(false, texts("namespaces", wire.namespaces, Namespaces));
        add(true, texts("not_namespaces", wire.not_namespaces, Namespaces));
        add(false, texts("principals", wire.principals, Principals));
        add(true, texts("not_principals", wire.not_principals, Principals));
        Self(tests.into())
    }
}

// === impl Attribute ===

impl Attribute {
    fn is_empty(&self) -> bool {
        match self {
            Self::DestinationPorts(values) => values.is_empty(),
            Self::DestinationIps(values) | Self::SourceIps(values) => values.is_empty(),
            Self::ServiceAccounts(values) => values.is_empty(),
            Self::Namespaces(values) | Self::Principals(values) => values.is_empty(),
        }
    }
}

fn port(at: At, port: u32) -> Result<u16, PolicyError> {
    u16::try_from(port).map_err(|_| PolicyError::Port { at, port })
}

fn network(at: At, wire: pb::Address) -> Result<IpNet, PolicyError> {
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(&*wire.address) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(&*wire.address) {
        IpAddr::from(v6)
    } else {
        return Err(PolicyError::Address { at, bytes: wire.address.len() });
    };
    let bad = || PolicyError::Prefix { at, ip, length: wire.length };
    let mut length = u8::try_from(wire.length).map_err(|_| bad())?;
    let canonical = ip.to_canonical();
    if canonical.is_ipv4() != ip.is_ipv4() {
        // Connections carry a mapped address as plain IPv4, so the network has to become IPv4 too.
        length = length.checked_sub(96).ok_or_else(bad)?;
    }
    IpNet::new(canonical, length).map_err(|_| bad())
}

fn text(at: At, wire: pb::StringMatch) -> Result<Text, PolicyError> {
    use pb::string_match::MatchType;
    Ok(match wire.match_type.ok_or(PolicyError::Text(at))? {
        MatchType::Exact(text) => Text::Exact(text.into()),
        MatchType::Prefix(text) => Text::Prefix(text.into()),
        MatchType::Suffix(text) => Text::Suffix(text.into()),
        MatchType::Presence(()) => Text::Presence,
    })
}

fn account(wire: pb::ServiceAccountMatch) -> ServiceAccount {
    ServiceAccount { namespace: wire.namespace.into(), name: wire.service_account.into() }
}

// === impl Faults ===

impl Faults {
    fn one(fault: PolicyError) -> Self {
        Self { first: Some(fault), count: 1 }
    }

    /// The value of `decoded`. An error is noted as a fault.
    fn note<T>(&mut self, decoded: Result<T, PolicyError>) -> Option<T> {
        match decoded {
            Ok(value) => Some(value),
            Err(fault) => {
                self.count += 1;
                self.first.get_or_insert(fault);
                None
            }
        }
    }

    /// Whether the whole policy was decoded.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the bytes were no policy at all.
    pub fn is_whole(&self) -> bool {
        matches!(self.first, Some(PolicyError::Bytes(_)))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = &self.first else { return Ok(()) };
        match self.count {
            1 => write!(f, "{first}"),
            count => write!(f, "{first}, and {} more", count - 1),
        }
    }
}

// === impl At ===

impl At {
    const fn start() -> Self {
        Self { rule: 0, clause: 0, matching: 0, field: "", index: 0 }
    }

    /// Decodes the list `field` as [`Self::each`] does, and makes an attribute of the values by `of`.
    fn list<W, T>(
        self,
        field: &'static str,
        values: Vec<W>,
        decode: impl Fn(Self, W) -> Result<T, PolicyError>,
        (of, faults): (impl FnOnce(Box<[T]>) -> Attribute, &mut Faults),
    ) -> (Attribute, bool) {
        let (known, unknown) = self.each(field, values, decode, faults);
        (of(known), unknown)
    }

    /// Decodes every value of the list `field`, and passes the place of each value to `decode`. Returns the decoded
    /// values, and whether others could not be decoded.
    fn each<W, T>(
        self,
        field: &'static str,
        values: Vec<W>,
        decode: impl Fn(Self, W) -> Result<T, PolicyError>,
        faults: &mut Faults,
    ) -> (Box<[T]>, bool) {
        let all = values.len();
        let decode = |(index, value)| decode(Self { field, index, ..self }, value);
        let decoded = values.into_iter().enumerate().map(decode);
        let known: Box<[T]> = decoded.filter_map(|value| faults.note(value)).collect();
        let unknown = known.len() < all;
        (known, unknown)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, clause, matching, field, index } = self;
        write!(f, "rules[{rule}].clauses[{clause}].matches[{matching}].{field}[{index}]")
    }
}
