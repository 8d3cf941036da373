//! Authorization policies: decoded, compiled and indexed (docs/spec/protos.md 2,
//! docs/spec/dataplane.md 5.1). [`rbac`](crate::protocols::rbac) evaluates the policies.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use crate::protocols::pb::security as pb;

/// One authorization policy, compiled for evaluation.
#[derive(Debug, PartialEq, Eq)]
pub struct Policy {
    key: Box<str>,
    name: Box<str>,
    namespace: Box<str>,
    scope: Scope,
    action: Action,
    dry_run: bool,
    rules: Box<[Rule]>,
}

/// Which destinations a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// Only workloads that name the policy.
    WorkloadSelector,
}

/// The effect of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allow the connection. Connections that match no ALLOW policy are denied.
    Allow,
    /// Deny the connection.
    Deny,
}

/// Clauses that must all match; a rule without clauses matches every connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule(Box<[Clause]>);

/// Matches of which one is enough; a clause without matches is true.
#[derive(Debug, PartialEq, Eq)]
pub struct Clause(Box<[Match]>);

/// Tests that must all hold, the cheapest first; a match without tests never matches.
#[derive(Debug, PartialEq, Eq)]
pub struct Match(Box<[Test]>);

/// A comparison of one attribute with a list of values.
#[derive(Debug, PartialEq, Eq)]
pub struct Test {
    /// Whether no value may match. Otherwise at least one value must match.
    pub negated: bool,
    /// The attribute and its values.
    pub attribute: Attribute,
}

/// An attribute of a connection and the values that a policy lists. The list is never empty.
#[derive(Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Ports of the destination.
    DestinationPorts(Box<[u16]>),
    /// Networks of the destination.
    DestinationIps(Box<[IpNet]>),
    /// Networks of the source.
    SourceIps(Box<[IpNet]>),
    /// Service accounts of the source, in any trust domain.
    ServiceAccounts(Box<[ServiceAccount]>),
    /// Namespaces of the source.
    Namespaces(Box<[Text]>),
    /// Identities of the source, without `spiffe://`.
    Principals(Box<[Text]>),
}

/// A service account of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
}

/// A pattern for text; case matters.
#[derive(Debug, PartialEq, Eq)]
pub enum Text {
    /// The text equals the pattern.
    Exact(Box<str>),
    /// The text begins with the pattern.
    Prefix(Box<str>),
    /// The text ends with the pattern.
    Suffix(Box<str>),
    /// The text is not empty.
    Presence,
}

/// Why a policy is rejected. One bad value rejects the whole policy, because dropping an entry could widen access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
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

/// The place of a value in a policy, by wire names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    rule: usize,
    clause: usize,
    matching: usize,
    field: &'static str,
    index: usize,
}

/// A change of the table.
#[derive(Debug)]
pub enum PolicyChange {
    /// Adds a policy, or replaces the policy with the same key.
    Upsert(Policy),
    /// Removes the policy with this key, if there is one.
    Remove(String),
}

/// An immutable table of all policies. A change makes a new table that shares the unchanged policies. Keep the table in
/// an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct PolicyTable {
    by_key: HashSet<ByKey, RandomState>,
    by_namespace: HashMap<Arc<str>, Arc<[Arc<Policy>]>, RandomState>,
    global: Vec<Arc<Policy>>,
}

/// A policy that hashes and compares as its key.
#[derive(Clone, Debug)]
struct ByKey(Arc<Policy>);

/// The indexes that a batch of changes has made stale.
#[derive(Default)]
struct Stale {
    namespaces: HashSet<Box<str>, RandomState>,
    global: bool,
}

// === impl Policy ===

impl Policy {
    /// Compiles the policy named `key` on the wire (docs/spec/protos.md 2).
    ///
    /// # Errors
    /// A scope or action is unknown, or any listed value is undecodable; the error names the field.
    pub fn decode(key: &str, policy: pb::Authorization) -> Result<Self, PolicyError> {
        let scope = match pb::Scope::try_from(policy.scope) {
            Ok(pb::Scope::Global) => Scope::Global,
            Ok(pb::Scope::Namespace) => Scope::Namespace,
            Ok(pb::Scope::WorkloadSelector) => Scope::WorkloadSelector,
            Err(_) => return Err(PolicyError::Scope(policy.scope)),
        };
        let action = match pb::Action::try_from(policy.action) {
            Ok(pb::Action::Allow) => Action::Allow,
            Ok(pb::Action::Deny) => Action::Deny,
            Err(_) => return Err(PolicyError::Action(policy.action)),
        };
        let mut at = At::start();
        let mut rules = Vec::with_capacity(policy.rules.len());
        for (rule, wire) in policy.rules.into_iter().enumerate() {
            at.rule = rule;
            rules.push(Rule::decode(&mut at, wire)?);
        }
        Ok(Self {
            key: key.into(),
            name: policy.name.into(),
            namespace: policy.namespace.into(),
            scope,
            action,
            dry_run: policy.dry_run,
            rules: rules.into(),
        })
    }

    /// The policy's resource name on the wire, by which workloads refer to the policy: `namespace/name`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The policy's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The destinations that the policy applies to.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The effect of a match.
    pub fn action(&self) -> Action {
        self.action
    }

    /// Whether the policy is evaluated and logged but never enforced.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The rules, of which one is enough. A policy without rules never matches.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether the policy applies to every workload of `namespace` without being named by the workloads.
    pub fn covers(&self, namespace: &str) -> bool {
        match self.scope {
            Scope::Global => true,
            Scope::Namespace => *self.namespace == *namespace,
            Scope::WorkloadSelector => false,
        }
    }
}

// === impl Rule, Clause, Match ===

impl Rule {
    /// The clauses of the rule.
    pub fn clauses(&self) -> &[Clause] {
        &self.0
    }

    fn decode(at: &mut At, wire: pb::Rule) -> Result<Self, PolicyError> {
        let mut clauses = Vec::with_capacity(wire.clauses.len());
        for (clause, wire) in wire.clauses.into_iter().enumerate() {
            at.clause = clause;
            clauses.push(Clause::decode(at, wire)?);
        }
        Ok(Self(clauses.into()))
    }
}

impl Clause {
    /// The matches of the clause.
    pub fn matches(&self) -> &[Match] {
        &self.0
    }

    fn decode(at: &mut At, wire: pb::Clause) -> Result<Self, PolicyError> {
        let mut matches = Vec::with_capacity(wire.matches.len());
        for (matching, wire) in wire.matches.into_iter().enumerate() {
            at.matching = matching;
            matches.push(Match::decode(*at, wire)?);
        }
        Ok(Self(matches.into()))
    }
}

impl Match {
    /// The tests of the match.
    pub fn tests(&self) -> &[Test] {
        &self.0
    }

    fn decode(at: At, wire: pb::Match) -> Result<Self, PolicyError> {
        let ports = |field, values| at.each(field, values, port);
        let ips = |field, values| at.each(field, values, network);
        let texts = |field, values| at.each(field, values, text);
        let accounts = |field, values| at.each(field, values, |_, value| Ok(account(value)));

        let mut tests = Vec::new();
        let mut add = |negated, attribute: Attribute| {
            if !attribute.is_empty() {
                tests.push(Test { negated, attribute });
            }
        };
        add(false, Attribute::DestinationPorts(ports("destination_ports", wire.destination_ports)?));
        add(true, Attribute::DestinationPorts(ports("not_destination_ports", wire.not_destination_ports)?));
        add(false, Attribute::DestinationIps(ips("destination_ips", wire.destination_ips)?));
        add(true, Attribute::DestinationIps(ips("not_destination_ips", wire.not_destination_ips)?));
        add(false, Attribute::SourceIps(ips("source_ips", wire.source_ips)?));
        add(true, Attribute::SourceIps(ips("not_source_ips", wire.not_source_ips)?));
        add(false, Attribute::ServiceAccounts(accounts("service_accounts", wire.service_accounts)?));
        add(true, Attribute::ServiceAccounts(accounts("not_service_accounts", wire.not_service_accounts)?));
        add(false, Attribute::Namespaces(texts("namespaces", wire.namespaces)?));
        add(true, Attribute::Namespaces(texts("not_namespaces", wire.not_namespaces)?));
        add(false, Attribute::Principals(texts("principals", wire.principals)?));
        add(true, Attribute::Principals(texts("not_principals", wire.not_principals)?));
        Ok(Self(tests.into()))
    }
}

// === impl Attribute, Text ===

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

impl Text {
    /// Whether `text` matches the pattern.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(want) => text == &**want,
            Self::Prefix(want) => text.starts_with(&**want),
            Self::Suffix(want) => text.ends_with(&**want),
            Self::Presence => !text.is_empty(),
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

// === impl At ===

impl At {
    const fn start() -> Self {
        Self { rule: 0, clause: 0, matching: 0, field: "", index: 0 }
    }

    /// Decodes every value of the list `field`, and passes the place of each value to `decode`.
    fn each<W, T>(
        self,
        field: &'static str,
        values: Vec<W>,
        decode: impl Fn(Self, W) -> Result<T, PolicyError>,
    ) -> Result<Box<[T]>, PolicyError> {
        values
            .into_iter()
            .enumerate()
            .map(|(index, value)| decode(Self { field, index, ..self }, value))
            .collect()
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, clause, matching, field, index } = self;
        write!(f, "rules[{rule}].clauses[{clause}].matches[{matching}].{field}[{index}]")
    }
}

// === impl PolicyTable ===

impl PolicyTable {
    /// Returns the table after `changes`, applied in order. The cost is one walk over all policies, however many
    /// changes there are.
    #[must_use]
    pub fn with(&self, changes: Vec<PolicyChange>) -> Self {
        let mut next = self.clone();
        let mut stale = Stale::default();
        for change in changes {
            let old = match change {
                PolicyChange::Upsert(policy) => {
                    stale.note(&policy);
                    next.by_key.replace(ByKey(Arc::new(policy)))
                }
                PolicyChange::Remove(key) => next.by_key.take(key.as_str()),
            };
            if let Some(ByKey(old)) = old {
                stale.note(&old);
            }
        }
        next.reindex(&stale);
        next
    }

    /// The policy with the given key.
    pub fn get(&self, key: &str) -> Option<&Arc<Policy>> {
        self.by_key.get(key).map(|ByKey(policy)| policy)
    }

    /// All policies, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_key.iter().map(|ByKey(policy)| policy)
    }

    /// The policies of a whole namespace, by key.
    pub fn of_namespace(&self, namespace: &str) -> &[Arc<Policy>] {
        self.by_namespace.get(namespace).map_or(&[], |policies| policies)
    }

    /// The policies of the whole mesh, by key.
    pub fn global(&self) -> &[Arc<Policy>] {
        &self.global
    }

    /// The number of policies.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether the table holds no policy.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn reindex(&mut self, stale: &Stale) {
        if !stale.global && stale.namespaces.is_empty() {
            return;
        }
        let mut global = Vec::new();
        let mut namespaces: HashMap<&str, Vec<Arc<Policy>>, RandomState> =
            stale.namespaces.iter().map(|name| (&**name, Vec::new())).collect();
        for ByKey(policy) in &self.by_key {
            match policy.scope {
                Scope::Global if stale.global => global.push(policy.clone()),
                Scope::Namespace => {
                    if let Some(list) = namespaces.get_mut(&*policy.namespace) {
                        list.push(policy.clone());
                    }
                }
                Scope::Global | Scope::WorkloadSelector => {}
            }
        }
        // The list is sorted so that the policy named in a denial does not depend on chance.
        let sort = |list: &mut Vec<Arc<Policy>>| list.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if stale.global {
            sort(&mut global);
            self.global = global;
        }
        for (name, mut list) in namespaces {
            sort(&mut list);
            if list.is_empty() {
                self.by_namespace.remove(name);
            } else {
                self.by_namespace.insert(name.into(), list.into());
            }
        }
    }
}

// === impl Stale ===

impl Stale {
    fn note(&mut self, policy: &Policy) {
        match policy.scope {
            Scope::Global => self.global = true,
            Scope::Namespace => {
                self.namespaces.insert(policy.namespace.clone());
            }
            Scope::WorkloadSelector => {}
        }
    }
}

// === impl ByKey ===

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

#[cfg(test)]
mod tests;
