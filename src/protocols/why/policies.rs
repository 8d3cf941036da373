//! Which policies apply to a connection, and what each of them finds.

use std::fmt::Display;

use super::{
    asked::listed,
    explanation::{Sentence, Verdict},
    proxy::Proxy,
};
use crate::protocols::{
    identity::Identity,
    mesh::{
        Workload,
        policy::{Action, Attribute, Policy, Scope, ServiceAccount, Test, Text},
    },
    rbac::{self, DenyReason, Destination, Flow, RuleRecorder, Truth},
};

/// Limit: policies in an explanation: 64; past it: the others are counted.
const POLICIES_SHOWN: usize = 64;
/// Limit: rules of a policy in an explanation: 32; past it: the others are left out.
const RULES_SHOWN: usize = 32;

/// Hears which tests hold.
struct Heard<'f> {
    flow: &'f Flow<'f>,
    tests: Vec<HeardTest>,
    /// The values of the rules that were looked at, in order.
    rules: Vec<Truth>,
}

struct HeardTest {
    place: (usize, usize),
    truth: Truth,
    says: String,
}

/// What the policies of `workload` decide about `flow`: the verdict, the end of a sentence, and a sentence a policy.
pub(super) fn explain(
    proxy: Proxy<'_>,
    workload: &Workload,
    flow: &Flow<'_>,
) -> (Verdict, String, Vec<Sentence>) {
    let table = proxy.mesh.policies();
    let destination = Destination { namespace: workload.namespace(), policies: workload.policies() };
    let absent = |key: &str| proxy.here.is_absent(key);
    let verdict = rbac::evaluate(&table, &destination, flow, &absent, &mut |_| {});
    let applying: Vec<_> = rbac::applying(&table, &destination).collect();
    let mut sentences: Vec<Sentence> =
        applying.iter().take(POLICIES_SHOWN).map(|policy| sentence(policy, flow)).collect();
    if let Some(more) = applying.len().checked_sub(POLICIES_SHOWN).filter(|more| *more > 0) {
        sentences.push(Sentence::new(format!("{more} more policies apply")));
    }
    for key in workload.policies().iter().filter(|key| table.get(key).is_none()) {
        sentences.push(Sentence::new(match absent(key) {
            true => {
                format!("the workload names the policy {key}, which does not exist and counts for nothing")
            }
            false => format!("the workload names the policy {key}, which the control plane has not sent"),
        }));
    }
    let (verdict, says) = match verdict {
        rbac::Verdict::Allow => {
            let says = match applying.iter().find(|policy| is_match(policy, Action::Allow, flow)) {
                Some(policy) => format!("lets the connection in, as the policy {} allows it", policy.key()),
                None if applying.is_empty() => "lets the connection in, as no policy applies".to_owned(),
                None => "lets the connection in, as no policy denies it and none restricts whom to allow"
                    .to_owned(),
            };
            (Verdict::Allowed, says)
        }
        rbac::Verdict::Deny(DenyReason::Explicit { policy, rule, certain }) => {
            let doubt = if certain { "" } else { rbac::UNDECODED };
            let rule = rule + 1;
            (
                Verdict::Denied,
                format!("denies the connection by rule {rule} of the policy {}{doubt}", policy.key()),
            )
        }
        rbac::Verdict::Deny(DenyReason::NoneAllowed) => {
            let says = "denies the connection, as ALLOW policies apply and none allows it";
            (Verdict::Denied, says.to_owned())
        }
        rbac::Verdict::Unknown { policy } => (
            Verdict::Unknown,
            format!("waits for the policy {policy}, and refuses the connection if it does not come"),
        ),
    };
    (verdict, says, sentences)
}

/// Whether an enforced policy of this kind certainly matches.
fn is_match(policy: &Policy, action: Action, flow: &Flow<'_>) -> bool {
    policy.action() == action && !policy.is_dry_run() && rbac::examine(policy, flow, &mut ()).0 == Truth::True
}

/// What one policy finds.
fn sentence(policy: &Policy, flow: &Flow<'_>) -> Sentence {
    let mut heard = Heard { flow, tests: Vec::new(), rules: Vec::new() };
    let (truth, rule) = rbac::examine(policy, flow, &mut heard);
    let action = match policy.action() {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
    };
    let scope = match policy.scope() {
        Scope::Global => "of the whole mesh",
        Scope::Namespace => "of the namespace",
        Scope::WorkloadSelector => "which the workload names",
        Scope::Unknown => "whose scope could not be decoded",
    };
    let dry = if policy.is_dry_run() { ", a dry run without effect" } else { "" };
    let found = match truth {
        Truth::True => format!("matches by rule {}", rule + 1),
        Truth::Unknown if policy.action() == Action::Deny => {
            format!("counts as a match by rule {}: a value could not be decoded", rule + 1)
        }
        Truth::Unknown => "does not count as a match: a value could not be decoded".to_owned(),
        Truth::False if policy.rules().is_empty() => "matches nothing: it has no rules".to_owned(),
        Truth::False => "does not match".to_owned(),
    };
    let rules = policy.rules().iter().zip(&heard.rules).enumerate().take(RULES_SHOWN);
    let rules = rules.map(|(index, (shown, truth))| heard.says(index, shown.clauses().is_empty(), *truth));
    Sentence::new(format!("the {action} policy {}, {scope}{dry}, {found}", policy.key()))
        .because(rules.collect())
}

// === impl Heard ===

impl RuleRecorder for Heard<'_> {
    fn test(&mut self, place: (usize, usize), test: &Test, truth: Truth) {
        self.tests.push(HeardTest { place, truth, says: says(test, self.flow, truth) });
    }

    fn rule(&mut self, _: usize, truth: Truth) {
        self.rules.push(truth);
    }
}

impl Heard<'_> {
    fn says(&self, index: usize, is_empty: bool, truth: Truth) -> Sentence {
        let number = index + 1;
        let of_rule = || self.tests.iter().filter(|test| test.place.0 == index);
        if truth == Truth::True {
            let held = of_rule().filter(|test| test.truth == Truth::True);
            let says = if is_empty { "matches every connection" } else { "matches" };
            return Sentence::new(format!("rule {number} {says}"))
                .because(held.map(HeardTest::sentence).collect());
        }
        // The clause that was looked at last is the one that does not hold.
        let clause = of_rule().map(|test| test.place.1).max();
        let failed = of_rule().filter(|test| Some(test.place.1) == clause && test.truth != Truth::True);
        let failed: Vec<Sentence> = failed.map(HeardTest::sentence).collect();
        let says = match () {
            () if truth == Truth::Unknown => "may match",
            () if failed.is_empty() => "does not match: one of its matches has no tests",
            () => "does not match",
        };
        Sentence::new(format!("rule {number} {says}")).because(failed)
    }
}

// === impl HeardTest ===

impl HeardTest {
    fn sentence(&self) -> Sentence {
        Sentence::new(&*self.says)
    }
}

/// What a test compares, as a fact.
fn says(test: &Test, flow: &Flow<'_>, truth: Truth) -> String {
    let none = || "a client without an identity".to_owned();
    let of = |id: &Identity| format!("{}/{}", id.namespace(), id.service_account());
    let (subject, values) = match &test.attribute {
        Attribute::DestinationPorts(ports) => (format!("the port {}", flow.dst.port()), texts(ports)),
        Attribute::DestinationIps(nets) => (format!("the destination {}", flow.dst.ip()), texts(nets)),
        Attribute::SourceIps(nets) => (format!("the client's address {}", flow.src.ip()), texts(nets)),
        Attribute::ServiceAccounts(accounts) => {
            let account = |account: &ServiceAccount| format!("{}/{}", account.namespace, account.name);
            let subject = flow.identity.map_or_else(none, |id| format!("the service account {}", of(id)));
            (subject, accounts.iter().map(account).collect())
        }
        Attribute::Namespaces(list) => {
            let subject =
                flow.identity.map_or_else(none, |id| format!("the client's namespace {}", id.namespace()));
            (subject, list.iter().map(pattern).collect())
        }
        Attribute::Principals(list) => {
            let subject = flow.identity.map_or_else(none, |id| format!("the identity {}", id.principal()));
            (subject, list.iter().map(pattern).collect())
        }
    };
    let values = listed(values);
    match (truth, test.negated) {
        (Truth::Unknown, _) => {
            format!("{subject} is none of {values}, and other values could not be decoded")
        }
        (Truth::True, false) => format!("{subject} is among {values}"),
        (Truth::False, false) => format!("{subject} is not among {values}"),
        (Truth::True, true) => format!("{subject} is not among {values}, which the rule leaves out"),
        (Truth::False, true) => format!("{subject} is among {values}, which the rule leaves out"),
    }
}

fn texts(values: &[impl Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn pattern(text: &Text) -> String {
    match text {
        Text::Exact(text) => text.to_string(),
        Text::Prefix(text) => format!("{text}*"),
        Text::Suffix(text) => format!("*{text}"),
        Text::Presence => "*".to_owned(),
    }
}
