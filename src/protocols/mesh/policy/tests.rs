use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::protocols::pb::security as pb;

fn one(matching: pb::Match) -> pb::Authorization {
    pb::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        rules: vec![pb::Rule { clauses: vec![pb::Clause { matches: vec![matching] }] }],
        ..Default::default()
    }
}

fn string(kind: Option<pb::string_match::MatchType>) -> Vec<pb::StringMatch> {
    vec![pb::StringMatch { match_type: kind }]
}

fn address(address: &[u8], length: u32) -> Vec<pb::Address> {
    vec![pb::Address { address: address.to_vec(), length }]
}

fn scoped(key: &str, namespace: &str, scope: pb::Scope) -> PolicyChange {
    let wire = pb::Authorization { namespace: namespace.into(), scope: scope.into(), ..Default::default() };
    PolicyChange::Upsert(Policy::decode(key, wire).0)
}

fn keys(policies: &[Arc<Policy>]) -> Vec<&str> {
    policies.iter().map(|p| p.key()).collect()
}

#[test]
fn a_bad_value_is_unknown_and_the_fault_says_where() {
    let mapped = "::ffff:10.0.0.0".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let none = pb::Match::default;
    let at = "rules[0].clauses[0].matches[0].";
    for (matching, want) in [
        (pb::Match { namespaces: string(None), ..none() }, "namespaces[0]: no kind of string match is set"),
        (
            pb::Match { not_namespaces: string(None), ..none() },
            "not_namespaces[0]: no kind of string match is set",
        ),
        (pb::Match { principals: string(None), ..none() }, "principals[0]: no kind of string match is set"),
        (
            pb::Match { not_principals: string(None), ..none() },
            "not_principals[0]: no kind of string match is set",
        ),
        (
            pb::Match { source_ips: address(&[1, 2, 3], 8), ..none() },
            "source_ips[0]: 3 bytes are no IP address",
        ),
        (
            pb::Match { not_source_ips: address(&[], 0), ..none() },
            "not_source_ips[0]: 0 bytes are no IP address",
        ),
        (
            pb::Match { destination_ips: address(&[10, 0, 0, 0], 33), ..none() },
            "destination_ips[0]: 33 is no prefix length of 10.0.0.0",
        ),
        (
            pb::Match { not_destination_ips: address(&[0; 16], 129), ..none() },
            "not_destination_ips[0]: 129 is no prefix length of ::",
        ),
        (
            pb::Match { source_ips: address(&[0; 16], u32::MAX), ..none() },
            "source_ips[0]: 4294967295 is no prefix length of ::",
        ),
        (
            pb::Match { source_ips: address(&mapped, 95), ..none() },
            "source_ips[0]: 95 is no prefix length of ::ffff:10.0.0.0",
        ),
        (
            pb::Match { destination_ports: vec![1, 65_536], ..none() },
            "destination_ports[1]: 65536 is no port",
        ),
        (
            pb::Match { not_destination_ports: vec![70_000], ..none() },
            "not_destination_ports[0]: 70000 is no port",
        ),
    ] {
        let (policy, faults) = Policy::decode("ns/p", one(matching));
        assert_eq!(faults.to_string(), format!("{at}{want}"));
        let [test] = policy.rules()[0].clauses()[0].matches()[0].tests() else { panic!("{policy:?}") };
        assert!(test.unknown && !faults.is_whole());
    }
}

#[test]
fn an_error_names_the_rule_clause_and_match() {
    let good = pb::Match { destination_ports: vec![80], ..Default::default() };
    let bad = pb::Match { destination_ports: vec![80, 443, 99_999], ..Default::default() };
    let wire = pb::Authorization {
        rules: vec![
            pb::Rule { clauses: vec![] },
            pb::Rule {
                clauses: vec![
                    pb::Clause { matches: vec![] },
                    pb::Clause { matches: vec![good.clone()] },
                    pb::Clause { matches: vec![good.clone(), good, bad] },
                ],
            },
        ],
        ..Default::default()
    };
    assert_eq!(
        Policy::decode("ns/p", wire).1.to_string(),
        "rules[1].clauses[2].matches[2].destination_ports[2]: 99999 is no port"
    );
}

#[test]
fn an_unknown_scope_or_action_is_a_fault_and_all_faults_are_counted() {
    let fault = |wire| Policy::decode("ns/p", wire).1.to_string();
    assert_eq!(fault(pb::Authorization { scope: 3, ..Default::default() }), "scope: unknown value 3");
    let action = pb::Authorization { action: -1, ..Default::default() };
    assert_eq!(fault(action), "action: unknown value -1");
    let ports = pb::Match { destination_ports: vec![70_000, 80, 70_001], ..Default::default() };
    assert_eq!(fault(pb::Authorization { action: 7, ..one(ports) }), "action: unknown value 7, and 2 more");
}

#[test]
fn a_policy_without_a_namespace_has_that_of_its_key() {
    let wire = pb::Authorization { scope: pb::Scope::Namespace.into(), ..Default::default() };
    let (policy, faults) = Policy::decode("ns/p", wire);
    assert!(faults.is_empty() && policy.covers("ns"));
}

#[test]
fn a_policy_sent_again_unchanged_keeps_its_place() {
    let table = PolicyTable::default().with(vec![scoped("b/p", "b", pb::Scope::Namespace)]);
    let again = table.with(vec![scoped("b/p", "b", pb::Scope::Namespace)]);
    assert!(Arc::ptr_eq(table.get("b/p").unwrap(), again.get("b/p").unwrap()));
}

#[test]
fn values_keep_their_meaning_and_cheap_tests_come_first() {
    let mapped = "::ffff:10.0.0.0".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let matching = pb::Match {
        principals: string(Some(pb::string_match::MatchType::Presence(()))),
        not_source_ips: address(&mapped, 104),
        destination_ports: vec![80, 0],
        ..Default::default()
    };
    let (policy, _) = Policy::decode("ns/p", one(matching));
    let tests = policy.rules()[0].clauses()[0].matches()[0].tests();
    assert_eq!(
        tests,
        [
            Test { negated: false, attribute: Attribute::DestinationPorts([80, 0].into()), unknown: false },
            Test {
                negated: true,
                attribute: Attribute::SourceIps(["10.0.0.0/8".parse().unwrap()].into()),
                unknown: false
            },
            Test {
                negated: false,
                attribute: Attribute::Principals([Text::Presence].into()),
                unknown: false
            },
        ]
    );
}

#[test]
fn patterns_match_by_case() {
    for (pattern, text, want) in [
        (Text::Exact("ab".into()), "ab", true),
        (Text::Exact("ab".into()), "AB", false),
        (Text::Exact("ab".into()), "abc", false),
        (Text::Exact("".into()), "", true),
        (Text::Prefix("ab".into()), "abc", true),
        (Text::Prefix("ab".into()), "ab", true),
        (Text::Prefix("ab".into()), "cab", false),
        (Text::Prefix("".into()), "", true),
        (Text::Suffix("ab".into()), "cab", true),
        (Text::Suffix("ab".into()), "abc", false),
        (Text::Presence, "a", true),
        (Text::Presence, "", false),
    ] {
        assert_eq!(pattern.matches(text), want, "{pattern:?} {text:?}");
    }
}

#[test]
fn the_table_indexes_by_key_namespace_and_mesh() {
    let table = PolicyTable::default().with(vec![
        scoped("b/two", "b", pb::Scope::Namespace),
        scoped("b/one", "b", pb::Scope::Namespace),
        scoped("root/all", "root", pb::Scope::Global),
        scoped("b/pick", "b", pb::Scope::WorkloadSelector),
    ]);
    assert_eq!(keys(table.of_namespace("b")), ["b/one", "b/two"]);
    assert_eq!(keys(table.of_namespace("root")), Vec::<&str>::new());
    assert_eq!(keys(table.global()), ["root/all"]);
    assert_eq!(table.get("b/pick").unwrap().key(), "b/pick");
    assert_eq!((table.len(), table.iter().count(), table.is_empty()), (4, 4, false));
}

#[test]
fn a_policy_moves_between_indexes_and_untouched_ones_are_shared() {
    let before = PolicyTable::default()
        .with(vec![scoped("b/p", "b", pb::Scope::Namespace), scoped("c/q", "c", pb::Scope::Namespace)]);
    let after = before.with(vec![scoped("b/p", "root", pb::Scope::Global)]);
    assert_eq!(keys(after.of_namespace("b")), Vec::<&str>::new());
    assert_eq!(keys(after.global()), ["b/p"]);
    assert_eq!(keys(before.of_namespace("b")), ["b/p"], "a table never changes");
    assert!(Arc::ptr_eq(before.get("c/q").unwrap(), after.get("c/q").unwrap()));
    assert!(Arc::ptr_eq(&before.of_namespace("c")[0], &after.of_namespace("c")[0]));
}

#[test]
fn removing_the_last_policy_of_a_namespace_leaves_nothing_behind() {
    let table = PolicyTable::default().with(vec![scoped("b/p", "b", pb::Scope::Namespace)]);
    let empty = table.with(vec![PolicyChange::Remove("b/p".into()), PolicyChange::Remove("b/none".into())]);
    assert!(empty.is_empty() && empty.of_namespace("b").is_empty());
}

proptest! {
    #[test]
    fn changes_in_any_batches_give_the_same_table(
        changes in prop::collection::vec((0_u8..6, 0_u8..3, 0_u8..4), 0..24),
        split in 0_usize..24,
    ) {
        let change = |&(key, namespace, kind): &(u8, u8, u8)| {
            let key = format!("k/{key}");
            match kind {
                0 => PolicyChange::Remove(key),
                1 => scoped(&key, &format!("n{namespace}"), pb::Scope::Global),
                2 => scoped(&key, &format!("n{namespace}"), pb::Scope::WorkloadSelector),
                _ => scoped(&key, &format!("n{namespace}"), pb::Scope::Namespace),
            }
        };
        let split = split.min(changes.len());
        let at_once = PolicyTable::default().with(changes.iter().map(change).collect());
        let in_two = PolicyTable::default()
            .with(changes[..split].iter().map(change).collect())
            .with(changes[split..].iter().map(change).collect());
        for table in [&at_once, &in_two] {
            for namespace in ["n0", "n1", "n2"] {
                let mut want: Vec<&str> = table
                    .iter()
                    .filter(|p| p.scope() == Scope::Namespace && p.namespace() == namespace)
                    .map(|p| p.key())
                    .collect();
                want.sort_unstable();
                prop_assert_eq!(keys(table.of_namespace(namespace)), want);
            }
        }
        prop_assert_eq!(at_once.len(), in_two.len());
        for policy in at_once.iter() {
            prop_assert_eq!(in_two.get(policy.key()), Some(policy));
        }
        prop_assert_eq!(keys(at_once.global()), keys(in_two.global()));
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let (policy, faults) = Policy::read("ns/p", &bytes);
        prop_assert_eq!(policy.key(), "ns/p");
        prop_assert_eq!(faults.is_whole(), pb::Authorization::decode(&*bytes).is_err());
    }
}
