//! Random policies, as they are sent, and connections that they may be about.

use proptest::{collection::vec, option, sample::select};

use super::*;

/// A policy as it was sent.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    Policy(pb::Authorization),
    /// Bytes that are no policy, after a scope or not.
    Rubbish {
        scope: Option<i32>,
    },
}

/// A policy that comes, or the key of one that goes.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(String, Sent),
    Drop(String),
}

impl Sent {
    /// An action that is unknown denies, and so does what is no policy.
    pub(super) fn denies(&self) -> bool {
        !matches!(self, Self::Policy(policy) if policy.action == 0)
    }

    pub(super) fn is_dry(&self) -> bool {
        matches!(self, Self::Policy(policy) if policy.dry_run)
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Policy(policy) => policy.encode_to_vec(),
            Self::Rubbish { scope } => {
                let begun = pb::Authorization { scope: scope.unwrap_or_default(), ..Default::default() };
                // Field 5 of 100 bytes, of which none follows.
                [begun.encode_to_vec(), vec![0x2a, 100]].concat()
            }
        }
    }

    /// The number of values that cannot be decoded, if it is a policy.
    fn faults(&self) -> Option<usize> {
        let Self::Policy(policy) = self else { return None };
        let texts = |list: &[pb::StringMatch]| list.iter().filter(|p| p.match_type.is_none()).count();
        let ports = |list: &[u32]| list.iter().filter(|port| **port > 65_535).count();
        let nets = |list: &[pb::Address]| list.iter().filter(|net| contains(net, HERE) == Maybe).count();
        let of_match = |m: &pb::Match| {
            texts(&m.namespaces)
                + texts(&m.not_namespaces)
                + texts(&m.principals)
                + texts(&m.not_principals)
                + nets(&m.source_ips)
                + nets(&m.not_source_ips)
                + nets(&m.destination_ips)
                + nets(&m.not_destination_ips)
                + ports(&m.destination_ports)
                + ports(&m.not_destination_ports)
        };
        let matches = policy.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
        let enums = usize::from(policy.scope > 2) + usize::from(policy.action > 1);
        Some(enums + matches.map(of_match).sum::<usize>())
    }
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Applies `step` to the list of what was sent last. The result is the change of the table.
pub(super) fn step(step: Step, last: &mut Vec<(String, Sent)>) -> PolicyChange {
    let (Step::Put(key, _) | Step::Drop(key)) = &step;
    last.retain(|(k, _)| k != key);
    match step {
        Step::Drop(key) => PolicyChange::Remove(key),
        Step::Put(key, sent) => {
            let (policy, faults) = Policy::read(&key, &sent.bytes());
            assert_eq!(faults.is_empty(), sent.faults() == Some(0), "{sent:?}: {faults}");
            assert_eq!(faults.is_whole(), sent.faults().is_none(), "{sent:?}: {faults}");
            last.push((key, sent));
            PolicyChange::Upsert(policy)
        }
    }
}

fn key() -> impl Strategy<Value = String> {
    (select(vec!["a", "b"]), 0..3).prop_map(|(namespace, n)| format!("{namespace}/p{n}"))
}

/// Some values, mostly of few, and mostly none at all.
fn few<S: Strategy>(one: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    prop_oneof![4 => Just(Vec::new()), 1 => vec(one, 1..3)]
}

fn texts() -> impl Strategy<Value = Vec<pb::StringMatch>> {
    let words = ["", "a", "b", "ab", "A", "td/ns/a/sa/web", "td/", "td/ns/a", "x/ns", "web", "/sa/db"];
    let words = words.into_iter().chain(["spiffe://td/ns/a/sa/web", "td/ns/a/sa/webb", "td"]);
    let word = select(words.map(String::from).collect::<Vec<_>>());
    let kind = prop_oneof![
        3 => word.clone().prop_map(MatchType::Exact),
        2 => word.clone().prop_map(MatchType::Prefix),
        2 => word.prop_map(MatchType::Suffix),
        1 => Just(MatchType::Presence(())),
    ];
    few(option::weighted(0.85, kind).prop_map(|match_type| pb::StringMatch { match_type }))
}

fn networks() -> impl Strategy<Value = Vec<pb::Address>> {
    let address = select(ADDRESSES.to_vec()).prop_map(|ip| match ip.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    });
    let length = select(vec![0_u32, 8, 23, 24, 31, 32, 33, 64, 95, 96, 104, 119, 120, 127, 128, 129]);
    let fitting = (address, length).prop_map(|(address, length)| {
        // A length for 16 bytes fits 4 bytes seldom.
        let length = if address.len() == 4 && length > 33 { length % 33 } else { length };
        pb::Address { address, length }
    });
    let odd =
        select(vec![0_usize, 3, 5, 15, 17]).prop_map(|n| pb::Address { address: vec![0; n], length: 0 });
    few(prop_oneof![10 => fitting, 1 => odd])
}

const ADDRESSES: [&str; 9] = [
    "10.0.0.1",
    "10.0.1.2",
    "10.0.0.0",
    "192.0.2.1",
    "::ffff:10.0.0.1",
    "::ffff:10.0.1.2",
    "fd00::1",
    "fd00::1:2",
    "::",
];

fn ports() -> impl Strategy<Value = Vec<u32>> {
    // The second and third of the ports that are none have 80 and 0 in their last 16 bits.
    few(prop_oneof![6 => select(vec![80, 81, 0, 65_535]), 1 => select(vec![70_000, 65_616, 65_536])])
}

fn accounts() -> impl Strategy<Value = Vec<pb::ServiceAccountMatch>> {
    let account = (select(vec!["a", "b", "ab", ""]), select(vec!["web", "db", "we", ""]));
    few(account.prop_map(|(namespace, account)| pb::ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: account.into(),
    }))
}

fn matched() -> impl Strategy<Value = pb::Match> {
    let texts = [texts().boxed(), texts().boxed(), texts().boxed(), texts().boxed()];
    let nets = [networks().boxed(), networks().boxed(), networks().boxed(), networks().boxed()];
    let rest =
        ([ports().boxed(), ports().boxed()], [accounts().boxed(), accounts().boxed()], any_extension());
    (texts, nets, rest).prop_map(|(texts, nets, (ports, accounts, extensions))| {
        let [namespaces, not_namespaces, principals, not_principals] = texts;
        let [source_ips, not_source_ips, destination_ips, not_destination_ips] = nets;
        let [destination_ports, not_destination_ports] = ports;
        let [service_accounts, not_service_accounts] = accounts;
        pb::Match {
            namespaces,
            not_namespaces,
            principals,
            not_principals,
            source_ips,
            not_source_ips,
            destination_ips,
            not_destination_ips,
            destination_ports,
            not_destination_ports,
            service_accounts,
            not_service_accounts,
            extensions,
        }
    })
}

/// Extensions count for nothing: a match with them alone has no field.
fn any_extension() -> impl Strategy<Value = Vec<crate::protocols::pb::workload::Extension>> {
    vec(Just(crate::protocols::pb::workload::Extension::default()), 0..2)
}

fn rules() -> impl Strategy<Value = Vec<pb::Rule>> {
    let clause = vec(matched(), 0..4).prop_map(|matches| pb::Clause { matches });
    vec(vec(clause, 0..3).prop_map(|clauses| pb::Rule { clauses }), 0..3)
}

fn policy() -> impl Strategy<Value = pb::Authorization> {
    let scope = prop_oneof![8 => 0..3, 1 => Just(7)];
    let action = prop_oneof![6 => Just(0), 6 => Just(1), 1 => Just(9)];
    (scope, action, prop::bool::weighted(0.2), rules()).prop_map(|(scope, action, dry_run, rules)| {
        pb::Authorization { scope, action, dry_run, rules, ..Default::default() }
    })
}

fn change() -> impl Strategy<Value = Step> {
    let named = (key(), policy(), prop::bool::weighted(0.05)).prop_map(|(key, mut policy, moved)| {
        // The namespace counts that the policy has, not that of its key.
        let (namespace, name) = key.split_once('/').unwrap();
        let other = if namespace == "a" { "b" } else { "a" };
        policy.namespace = if moved { other } else { namespace }.into();
        policy.name = name.into();
        Step::Put(key, Sent::Policy(policy))
    });
    let scope = select(vec![None, Some(1), Some(2), Some(7)]);
    let rubbish = (key(), scope).prop_map(|(key, scope)| Step::Put(key, Sent::Rubbish { scope }));
    prop_oneof![20 => named, 1 => rubbish, 5 => key().prop_map(Step::Drop)]
}

/// Pushes of policies, one after the other.
pub(super) fn history() -> impl Strategy<Value = Vec<Vec<Step>>> {
    vec(vec(change(), 0..4), 0..5)
}

/// Workloads: the namespace, the policies that are named, each once, and those that the control plane does not have.
pub(super) fn destinations() -> impl Strategy<Value = Vec<(&'static str, Vec<String>, Vec<String>)>> {
    let named =
        prop::collection::btree_set(key(), 0..3).prop_map(|keys| keys.into_iter().collect::<Vec<_>>());
    let one = (select(vec!["a", "b", "c"]), named.prop_shuffle(), vec(key(), 0..6));
    vec(one, 1..3)
}

pub(super) fn connections() -> impl Strategy<Value = Vec<Connection>> {
    let ids = [
        "spiffe://td/ns/a/sa/web",
        "spiffe://td/ns/b/sa/web",
        "spiffe://x/ns/a/sa/db",
        "spiffe://td/ns/ab/sa/we",
    ];
    let ip = || select(ADDRESSES.to_vec()).prop_map(|ip| ip.parse::<IpAddr>().unwrap());
    let all = (ip(), option::weighted(0.8, select(ids.to_vec())), ip(), select(vec![80_u16, 81, 0, 65_535]));
    let one = |(source, identity, destination, port)| Connection { source, identity, destination, port };
    vec(all.prop_map(one), 1..5)
}
