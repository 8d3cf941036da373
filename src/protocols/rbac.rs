//! The decision whether a connection is allowed (docs/spec/dataplane.md 5). The evaluation does not allocate.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    addr::canonical,
    identity::Identity,
    mesh::policy::{Action, Attribute, Clause, Match, Policy, PolicyTable, Rule, Test, Text},
};

/// A connection, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// The client's address: the peer of the TCP connection.
    pub src: SocketAddr,
    /// The client's identity by mutual TLS. A plaintext connection has none.
    pub identity: Option<&'a Identity>,
    /// The workload's address and the port that the application listens on.
    pub dst: SocketAddr,
}

/// The workload a connection is for, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a, S> {
    /// The workload's namespace.
    pub namespace: &'a str,
    /// The keys of the policies bound to the workload.
    pub policies: &'a [S],
}

/// The decision about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Allow the connection.
    Allow,
    /// Deny the connection.
    Deny(DenyReason),
    /// The workload names a policy that the table does not hold. The caller waits for the policy up to a deadline, then
    /// denies the connection with [`DenyReason::Unknown`].
    Unknown {
        /// The policy's key.
        policy: &'a str,
    },
}

/// Why a connection is denied. Operators know the displayed texts (docs/spec/controlplane.md 6.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// A DENY policy matched.
    Explicit {
        /// The policy.
        policy: Arc<Policy>,
        /// The index of the rule that matched, from 0.
        rule: usize,
    },
    /// ALLOW policies apply and none matched.
    NoneAllowed,
    /// The workload names this policy, and the control plane has not sent the policy in time.
    Unknown(Box<str>),
}

/// A dry-run policy that would count if it were enforced.
#[derive(Clone, Copy, Debug)]
pub struct DryRun<'a> {
    /// The policy: a DENY that matched, or an ALLOW, whether or not it matched.
    pub policy: &'a Policy,
    /// Whether the policy matched.
    pub matched: bool,
}

/// The result of the walk over all policies, which evaluates DENY rules only.
struct Denials<'a> {
    denied: Option<DenyReason>,
    unknown: Option<&'a str>,
    any_allow: bool,
}

/// Decides about `flow`. Dry-run policies are reported to `log` and otherwise have no effect.
///
/// A matching DENY policy decides even while another policy is unknown. Without such a match an unknown policy leaves
/// the decision open, because the unknown policy may be a DENY that matches.
pub fn evaluate<'a, S: AsRef<str>>(
    table: &PolicyTable,
    destination: &Destination<'a, S>,
    flow: &Flow<'_>,
    log: &mut dyn FnMut(DryRun<'_>),
) -> Verdict<'a> {
    // Policies hold plain IPv4 networks, so an IPv4-mapped IPv6 address has to become IPv4 before the comparison.
    let flow = &Flow { src: canonical(flow.src), dst: canonical(flow.dst), ..*flow };
    let denials = denials(table, destination, flow, log);
    if let Some(reason) = denials.denied {
        return Verdict::Deny(reason);
    }
    if let Some(policy) = denials.unknown {
        return Verdict::Unknown { policy };
    }
    if !denials.any_allow {
        return Verdict::Allow;
    }
    allowances(table, destination, flow, log)
}

fn denials<'a, S: AsRef<str>>(
    table: &PolicyTable,
    destination: &Destination<'a, S>,
    flow: &Flow<'_>,
    log: &mut dyn FnMut(DryRun<'_>),
) -> Denials<'a> {
    let mut found = Denials { denied: None, unknown: None, any_allow: false };
    let mut look = |policy: &Arc<Policy>| match (policy.action(), policy.is_dry_run()) {
        (Action::Allow, _) => found.any_allow = true,
        (Action::Deny, true) => {
            if matching_rule(policy, flow).is_some() {
                log(DryRun { policy, matched: true });
            }
        }
        (Action::Deny, false) => {
            if found.denied.is_none()
                && let Some(rule) = matching_rule(policy, flow)
            {
                found.denied = Some(DenyReason::Explicit { policy: policy.clone(), rule });
            }
        }
    };
    covering(table, destination.namespace).for_each(&mut look);
    let mut unknown = None;
    for key in destination.policies.iter().map(AsRef::as_ref) {
        match table.get(key) {
            Some(policy) if policy.covers(destination.namespace) => {}
            Some(policy) => look(policy),
            None => unknown = unknown.or(Some(key)),
        }
    }
    found.unknown = unknown;
    found
}

fn allowances<'a, S: AsRef<str>>(
    table: &PolicyTable,
    destination: &Destination<'a, S>,
    flow: &Flow<'_>,
    log: &mut dyn FnMut(DryRun<'_>),
) -> Verdict<'a> {
    let (mut enforced, mut allowed) = (false, false);
    let bound = destination
        .policies
        .iter()
        .filter_map(|key| table.get(key.as_ref()))
        .filter(|policy| !policy.covers(destination.namespace));
    for policy in covering(table, destination.namespace).chain(bound) {
        match (policy.action(), policy.is_dry_run()) {
            (Action::Deny, _) => {}
            (Action::Allow, true) => {
                log(DryRun { policy, matched: matching_rule(policy, flow).is_some() });
            }
            (Action::Allow, false) => {
                enforced = true;
                allowed = allowed || matching_rule(policy, flow).is_some();
            }
        }
    }
    if allowed || !enforced { Verdict::Allow } else { Verdict::Deny(DenyReason::NoneAllowed) }
}

/// The policies that apply to all workloads of a namespace.
fn covering<'t>(table: &'t PolicyTable, namespace: &str) -> impl Iterator<Item = &'t Arc<Policy>> {
    table.of_namespace(namespace).iter().chain(table.global())
}

/// The first rule of `policy` that matches, from 0. The addresses of `flow` are plain IPv4 or IPv6.
fn matching_rule(policy: &Policy, flow: &Flow<'_>) -> Option<usize> {
    let clause =
        |clause: &Clause| clause.matches().is_empty() || clause.matches().iter().any(|m| all(m, flow));
    policy.rules().iter().position(|rule: &Rule| rule.clauses().iter().all(clause))
}

fn all(matching: &Match, flow: &Flow<'_>) -> bool {
    // A match without tests says nothing, and must not allow any connection.
    !matching.tests().is_empty() && matching.tests().iter().all(|test| holds(test, flow))
}

fn holds(test: &Test, flow: &Flow<'_>) -> bool {
    let found = match &test.attribute {
        Attribute::DestinationPorts(ports) => ports.contains(&flow.dst.port()),
        Attribute::DestinationIps(networks) => contain(networks, flow.dst.ip()),
        Attribute::SourceIps(networks) => contain(networks, flow.src.ip()),
        Attribute::ServiceAccounts(accounts) => flow.identity.is_some_and(|id| {
            accounts.iter().any(|a| *a.name == *id.service_account() && *a.namespace == *id.namespace())
        }),
        Attribute::Namespaces(texts) => fit(texts, flow.identity.map_or("", Identity::namespace)),
        Attribute::Principals(texts) => flow.identity.is_some_and(|id| fit(texts, id.principal())),
    };
    found != test.negated
}

fn contain(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

fn fit(texts: &[Text], text: &str) -> bool {
    texts.iter().any(|pattern| pattern.matches(text))
}

// === impl DenyReason ===

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit { policy, .. } => write!(f, "explicitly denied by: {}", policy.key()),
            Self::NoneAllowed => f.write_str("allow policies exist, but none allowed"),
            Self::Unknown(policy) => write!(f, "policy not received: {policy}"),
        }
    }
}

#[cfg(test)]
mod tests;
