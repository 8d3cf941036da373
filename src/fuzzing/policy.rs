//! Policies of the control plane, through to a decision.

use std::net::SocketAddr;

use prost::Message as _;

use super::input::Input;
use crate::protocols::{
    identity::Identity,
    mesh::policy::{Policy, PolicyChange, PolicyTable},
    pb::security::{self as pb, string_match::MatchType},
    rbac::{Destination, Flow, Verdict, applying, evaluate, oracle},
};

/// The most values that cannot be decoded in a policy: the oracle tries all that they may mean.
const UNKNOWNS: u32 = 8;

/// Policies of which some values cannot be decoded, or of damaged bytes, and a connection. The decision is that of a
/// literal reading of the contract.
pub fn policy(data: &[u8]) {
    let mut input = Input::new(data);
    let flow = Ends::of(&mut input);
    let policies: Vec<pb::Authorization> =
        (0..1 + input.below(4)).map(|at| authorization(&mut input, at)).collect();
    let bound: Vec<String> =
        (0..input.below(3)).map(|_| format!("{}/p{}", input.pick(&["a", "b"]), input.below(5))).collect();
    let table = table(&policies);
    let decided = decide(&table, &bound, &flow.flow());
    assert_eq!(decided, decide(&table, &bound, &flow.mapped().flow()), "an address has two forms");
    if policies.iter().all(|policy| oracle::unknowns(policy) <= UNKNOWNS) {
        assert_eq!(decided, oracle::verdict(&policies, &bound, &flow.flow()));
    }
    damage(&mut input, &policies, &flow);
}

/// Bytes that are no policy deny what they may be about, and never let anybody in.
fn damage(input: &mut Input<'_>, policies: &[pb::Authorization], flow: &Ends) {
    let mut bytes = input.pick(policies).encode_to_vec();
    for _ in 0..input.below(4) {
        let (at, to) = (input.below(bytes.len().max(1)), input.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
    }
    if input.flip() {
        bytes.truncate(input.below(bytes.len() + 1));
    }
    if input.flip() {
        bytes = input.rest().to_vec();
    }
    let (read, faults) = Policy::read("a/p", &bytes);
    assert_eq!(faults.is_empty(), faults.to_string().is_empty());
    let table = PolicyTable::default().with(vec![PolicyChange::Upsert(read)]);
    let decided = decide(&table, &["a/p".to_owned()], &flow.flow());
    match pb::Authorization::decode(bytes.as_slice()) {
        Ok(wire) => assert_eq!(Policy::decode("a/p", wire).0, Policy::read("a/p", &bytes).0),
        Err(_) => {
            assert!(faults.is_whole());
            assert_eq!(decided, "deny", "what cannot be read lets somebody in");
        }
    }
}

fn table(policies: &[pb::Authorization]) -> PolicyTable {
    let change = |wire: &pb::Authorization| {
        let key = format!("{}/{}", wire.namespace, wire.name);
        PolicyChange::Upsert(Policy::decode(&key, wire.clone()).0)
    };
    PolicyTable::default().with(policies.iter().map(change).collect())
}

fn decide(table: &PolicyTable, bound: &[String], flow: &Flow<'_>) -> &'static str {
    let destination = Destination { namespace: "a", policies: bound };
    assert!(applying(table, &destination).count() <= table_size(table, &destination));
    match evaluate(table, &destination, flow, &|_| false, &mut |dry| assert!(dry.policy.is_dry_run())) {
        Verdict::Allow => "allow",
        Verdict::Deny(reason) => {
            assert!(!reason.to_string().is_empty());
            "deny"
        }
        Verdict::Unknown { policy } => {
            assert!(table.get(policy).is_none());
            "unknown"
        }
    }
}

/// The most policies that can apply.
fn table_size(table: &PolicyTable, destination: &Destination<'_, String>) -> usize {
    table.global().len() + table.of_namespace(destination.namespace).len() + destination.policies.len()
}

/// The two ends of a connection, and the client's identity.
#[derive(Clone)]
struct Ends {
    src: SocketAddr,
    dst: SocketAddr,
    identity: Option<Identity>,
}

// === impl Ends ===

impl Ends {
    fn of(input: &mut Input<'_>) -> Self {
        let ends =
            [("10.0.0.1:9", "10.0.1.2:80"), ("[fdfd::1]:9", "[fdfd::2]:80"), ("10.1.0.0:9", "10.0.0.0:81")];
        let (src, dst) = *input.pick(&ends);
        let id =
            input.pick(&["", "spiffe://td/ns/a/sa/web", "spiffe://td/ns/b/sa/web", "spiffe://x/ns/a/sa/db"]);
        Self { src: src.parse().unwrap(), dst: dst.parse().unwrap(), identity: id.parse().ok() }
    }

    fn flow(&self) -> Flow<'_> {
        Flow { src: self.src, identity: self.identity.as_ref(), dst: self.dst }
    }

    /// The same connection by addresses of IPv6 alone.
    fn mapped(&self) -> Self {
        let map = |addr: SocketAddr| match addr {
            SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            SocketAddr::V6(_) => addr,
        };
        Self { src: map(self.src), dst: map(self.dst), identity: self.identity.clone() }
    }
}

fn authorization(input: &mut Input<'_>, at: usize) -> pb::Authorization {
    let head = input.byte();
    pb::Authorization {
        name: format!("p{at}"),
        namespace: if head & 1 == 0 { "a" } else { "b" }.into(),
        scope: [0, 1, 2, 9][usize::from(head >> 1 & 3)],
        action: [0, 1, 1, 7][usize::from(head >> 3 & 3)],
        dry_run: head >> 5 == 7,
        rules: (0..input.below(3)).map(|_| rule(input)).collect(),
        ..Default::default()
    }
}

fn rule(input: &mut Input<'_>) -> pb::Rule {
    let clause = |input: &mut Input<'_>| pb::Clause {
        matches: (0..input.below(3)).map(|_| matching(input)).collect(),
    };
    pb::Rule { clauses: (0..input.below(3)).map(|_| clause(input)).collect() }
}

/// A match of a few attributes.
fn matching(input: &mut Input<'_>) -> pb::Match {
    let mut matching = pb::Match::default();
    for _ in 0..input.below(4) {
        match input.below(12) {
            0 => matching.namespaces.push(string(input)),
            1 => matching.not_namespaces.push(string(input)),
            2 => matching.principals.push(string(input)),
            3 => matching.not_principals.push(string(input)),
            4 => matching.source_ips.push(network(input)),
            5 => matching.not_source_ips.push(network(input)),
            6 => matching.destination_ips.push(network(input)),
            7 => matching.not_destination_ips.push(network(input)),
            8 => matching.destination_ports.push(*input.pick(&[80, 81, 79, 70_000])),
            9 => matching.not_destination_ports.push(*input.pick(&[80, 81, 79, 70_000])),
            10 => matching.service_accounts.push(account(input)),
            _ => matching.not_service_accounts.push(account(input)),
        }
    }
    matching
}

fn string(input: &mut Input<'_>) -> pb::StringMatch {
    let kind = input.below(5);
    let word = input.word(&["", "a", "b", "td/ns/a/sa/web", "td", "web", "/"]);
    let match_type = match kind {
        0 => MatchType::Exact(word),
        1 => MatchType::Prefix(word),
        2 => MatchType::Suffix(word),
        3 => MatchType::Presence(()),
        _ => return pb::StringMatch { match_type: None },
    };
    pb::StringMatch { match_type: Some(match_type) }
}

fn network(input: &mut Input<'_>) -> pb::Address {
    let length = u32::from(input.byte()) % 130;
    let address = match input.below(4) {
        0 | 1 => vec![10, input.byte() % 2, input.byte() % 2, input.byte() % 3],
        2 => [vec![0xfd; 2], vec![0; 13], vec![input.byte() % 3]].concat(),
        _ => input.bytes(3).to_vec(),
    };
    pb::Address { address, length }
}

fn account(input: &mut Input<'_>) -> pb::ServiceAccountMatch {
    pb::ServiceAccountMatch {
        namespace: (*input.pick(&["a", "b"])).into(),
        service_account: (*input.pick(&["web", "db"])).into(),
    }
}
