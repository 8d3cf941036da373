//! The decision whether a connection is allowed (docs/spec/dataplane.md 5). The evaluation does not allocate.
//!
//! A value of a policy that could not be decoded is unknown, and so is what depends on the value alone, by Kleene's
//! logic of three values. A DENY matches if its rules are true or unknown, an ALLOW only if they are true.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    addr::canonical,
    identity::Identity,
    mesh::policy::{Action, Attribute, Clause, Match, Policy, PolicyTable, Test, Text},
};

/// Says that a DENY matched only because a value of the policy could not be decoded.
pub const UNDECODED: &str = " (a value could not be decoded)";

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
    /// The workload names a policy that the table does not hold and that may still come.
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
        /// Whether the rule matches whatever the values are that could not be decoded.
        certain: bool,
    },
    /// ALLOW policies apply and none matched.
    NoneAllowed,
}

/// A dry-run policy that would count if it were enforced.
#[derive(Clone, Copy, Debug)]
pub struct DryRun<'a> {
    /// The policy: a DENY that matched, or an ALLOW, whether or not it matched.
    pub policy: &'a Policy,
    /// Whether the policy matched.
    pub matched: bool,
}

/// A value of three-valued logic. The order is that of Kleene: a conjunction is the least value, a disjunction the
/// greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// It does not hold.
    False,
    /// A value that could not be decoded decides.
    Unknown,
    /// It holds.
    True,
}

/// Hears what a match of a policy depends on. `()` hears nothing and costs nothing: the compiler leaves the calls out.
pub trait RuleRecorder {
    /// Hears whether a test holds that belongs to a clause of a rule; both are indexes from 0. A test is heard of only
    /// if the value of its rule depends on it.
    fn test(&mut self, place: (usize, usize), test: &Test, truth: Truth);

    /// Hears whether a rule holds, by its index from 0. Rules behind the first that holds are not heard of.
    fn rule(&mut self, rule: usize, truth: Truth);
}

impl RuleRecorder for () {
    #[inline]
    fn test(&mut self, _: (usize, usize), _: &Test, _: Truth) {}

    #[inline]
    fn rule(&mut self, _: usize, _: Truth) {}
}

/// The result of the walk over all policies, which evaluates DENY rules only.
struct Denials<'a> {
    denied: Option<DenyReason>,
    unknown: Option<&'a str>,
    any_allow: bool,
}

/// Decides about `flow`. Dry-run policies are reported to `log` and otherwise have no effect. `absent` says of a key that
/// the table does not hold whether there is no such policy.
///
/// A matching DENY policy decides even while another policy is unknown. Without such a match an unknown policy leaves
/// the decision open, because the unknown policy may be a DENY that matches.
pub fn evaluate<'a, S: AsRef<str>>(
    table: &PolicyTable,
    destination: &Destination<'a, S>,
    flow: &Flow<'_>,
    absent: &dyn Fn(&str) -> bool,
    log: &mut dyn FnMut(DryRun<'_>),
) -> Verdict<'a> {
    let flow = &flow.canonical();
    let denials = denials(table, destination, flow, absent, log);
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
    absent: &dyn Fn(&str) -> bool,
    log: &mut dyn FnMut(DryRun<'_>),
) -> Denials<'a> {
    let mut found = Denials { denied: None, unknown: None, any_allow: false };
    let mut look = |policy: &Arc<Policy>| match (policy.action(), policy.is_dry_run()) {
        (Action::Allow, _) => found.any_allow = true,
        (Action::Deny, true) => {
            if matching_rule(policy, flow, &mut ()).0 > Truth::False {
                log(DryRun { policy, matched: true });
            }
        }
        (Action::Deny, false) => {
            if found.denied.is_none()
                && let (truth @ (Truth::Unknown | Truth::True), rule) = matching_rule(policy, flow, &mut ())
            {
                let certain = truth == Truth::True;
                found.denied = Some(DenyReason::Explicit { policy: policy.clone(), rule, certain });
            }
        }
    };
    covering(table, destination.namespace).for_each(&mut look);
    let mut unknown = None;
    for key in destination.policies.iter().map(AsRef::as_ref) {
        match table.get(key) {
            Some(policy) if policy.covers(destination.namespace) => {}
            Some(policy) => look(policy),
            None if absent(key) => {}
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
    for policy in applying(table, destination) {
        match (policy.action(), policy.is_dry_run()) {
            (Action::Deny, _) => {}
            (Action::Allow, true) => {
                log(DryRun { policy, matched: matching_rule(policy, flow, &mut ()).0 == Truth::True });
            }
            (Action::Allow, false) => {
                enforced = true;
                allowed = allowed || matching_rule(policy, flow, &mut ()).0 == Truth::True;
            }
        }
    }
    if allowed || !enforced { Verdict::Allow } else { Verdict::Deny(DenyReason::NoneAllowed) }
}

/// The policies that apply to a workload, as far as the table holds them, each once.
pub fn applying<'t, S: AsRef<str>>(
    table: &'t PolicyTable,
    destination: &Destination<'_, S>,
) -> impl Iterator<Item = &'t Arc<Policy>> {
    let (namespace, keys) = (destination.namespace, destination.policies);
    let bound = keys.iter().filter_map(|key| table.get(key.as_ref()));
    covering(table, namespace).chain(bound.filter(move |policy| !policy.covers(namespace)))
}

/// The policies that apply to all workloads of a namespace.
fn covering<'t>(table: &'t PolicyTable, namespace: &str) -> impl Iterator<Item = &'t Arc<Policy>> {
    table.of_namespace(namespace).iter().chain(table.global())
}

/// Whether a rule of `policy` matches `flow`, and the first rule with that value, from 0: what [`evaluate`] finds of
/// the policy.
pub fn examine(policy: &Policy, flow: &Flow<'_>, recorder: &mut impl RuleRecorder) -> (Truth, usize) {
    matching_rule(policy, &flow.canonical(), recorder)
}

/// Whether a rule of `policy` matches, and the first rule with that value, from 0. The addresses of `flow` are plain
/// IPv4 or IPv6.
fn matching_rule<R: RuleRecorder>(policy: &Policy, flow: &Flow<'_>, recorder: &mut R) -> (Truth, usize) {
    let mut best = (Truth::False, 0);
    for (index, rule) in policy.rules().iter().enumerate() {
        let clauses = rule.clauses().iter().enumerate();
        let truth = Truth::all(clauses.map(|(at, clause)| any_match(clause, flow, (index, at), recorder)));
        recorder.rule(index, truth);
        if truth > best.0 {
            best = (truth, index);
        }
        if truth == Truth::True {
            break;
        }
    }
    best
}

fn any_match<R: RuleRecorder>(
    clause: &Clause,
    flow: &Flow<'_>,
    place: (usize, usize),
    recorder: &mut R,
) -> Truth {
    if clause.matches().is_empty() {
        return Truth::True;
    }
    Truth::any(clause.matches().iter().map(|matching| all_tests(matching, flow, place, recorder)))
}

fn all_tests<R: RuleRecorder>(
    matching: &Match,
    flow: &Flow<'_>,
    place: (usize, usize),
    recorder: &mut R,
) -> Truth {
    // A match without tests says nothing, and must not allow any connection.
    if matching.tests().is_empty() {
        return Truth::False;
    }
    Truth::all(matching.tests().iter().map(|test| {
        let truth = holds(test, flow);
        recorder.test(place, test, truth);
        truth
    }))
}

fn holds(test: &Test, flow: &Flow<'_>) -> Truth {
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
    match (found, test.unknown) {
        (false, true) => Truth::Unknown,
        (found, _) if found != test.negated => Truth::True,
        _ => Truth::False,
    }
}

fn contain(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

fn fit(texts: &[Text], text: &str) -> bool {
    texts.iter().any(|pattern| pattern.matches(text))
}

// === impl Flow ===

impl Flow<'_> {
    /// The same connection with plain addresses. Policies hold plain IPv4 networks, so an IPv4-mapped IPv6 address has
    /// to become IPv4 before the comparison.
    fn canonical(&self) -> Self {
        Self { src: canonical(self.src), dst: canonical(self.dst), ..*self }
    }
}

// === impl Truth ===

impl Truth {
    /// The disjunction of `values`. Without a value the result is false.
    fn any(values: impl IntoIterator<Item = Self>) -> Self {
        let mut any = Self::False;
        for value in values {
            any = any.max(value);
            if any == Self::True {
                break;
            }
        }
        any
    }

    /// The conjunction of `values`. Without a value the result is true.
    fn all(values: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::True;
        for value in values {
            all = all.min(value);
            if all == Self::False {
                break;
            }
        }
        all
    }
}

// === impl DenyReason ===

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit { policy, certain, .. } => {
                write!(f, "explicitly denied by: {}", policy.key())?;
                f.write_str(if *certain { "" } else { UNDECODED })
            }
            Self::NoneAllowed => f.write_str("allow policies exist, but none allowed"),
        }
    }
}

#[cfg(any(test, fuzzing))]
#[allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a reading of the contract for tests")]
pub(crate) mod oracle;
#[cfg(test)]
mod tests;
