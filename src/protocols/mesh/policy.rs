//! Authorization policies, compiled and indexed (docs/spec/protos.md 2, docs/spec/dataplane.md 5.1).
//! [`rbac`](crate::protocols::rbac) evaluates the policies.

mod decode;
mod table;

#[cfg(test)]
mod tests;

use ipnet::IpNet;

pub use self::{
    decode::{At, Faults, PolicyError},
    table::{PolicyChange, PolicyTable},
};

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
    /// Not decoded: the policy applies to every workload of its namespace, and to workloads that name the policy.
    Unknown,
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
    /// Whether the list had values that could not be decoded. Such a value may or may not match.
    pub unknown: bool,
}

/// An attribute of a connection and the values that a policy lists. The list is empty only if no value could be
/// decoded.
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

// === impl Policy ===

impl Policy {
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

    /// The effect of a match. An action that could not be decoded is a DENY.
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
            Scope::Namespace | Scope::Unknown => *self.namespace == *namespace,
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
}

impl Clause {
    /// The matches of the clause.
    pub fn matches(&self) -> &[Match] {
        &self.0
    }
}

impl Match {
    /// The tests of the match.
    pub fn tests(&self) -> &[Test] {
        &self.0
    }
}

// === impl Text ===

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
