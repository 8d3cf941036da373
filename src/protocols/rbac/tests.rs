mod model;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::protocols::{
    mesh::policy::PolicyChange,
    pb::security::{self as pb, string_match::MatchType},
};

const WEB: &str = "spiffe://td/ns/a/sa/web";

fn table(policies: Vec<pb::Authorization>) -> PolicyTable {
    let change = |wire: pb::Authorization| {
        PolicyChange::Upsert(Policy::decode(&format!("{}/{}", wire.namespace, wire.name), wire).0)
    };
    PolicyTable::default().with(policies.into_iter().map(change).collect())
}

fn policy(name: &str, action: pb::Action, rules: Vec<pb::Rule>) -> pb::Authorization {
    pb::Authorization {
        name: name.into(),
        namespace: "a".into(),
        scope: pb::Scope::Namespace.into(),
        action: action.into(),
        rules,
        ..Default::default()
    }
}

fn rule(matches: Vec<pb::Match>) -> Vec<pb::Rule> {
    vec![pb::Rule { clauses: vec![pb::Clause { matches }] }]
}

fn port(port: u32) -> pb::Match {
    pb::Match { destination_ports: vec![port], ..Default::default() }
}

fn text(kind: MatchType) -> pb::StringMatch {
    pb::StringMatch { match_type: Some(kind) }
}

fn any_port() -> Vec<pb::Rule> {
    vec![pb::Rule { clauses: vec![] }]
}

/// Decides about a connection from 10.0.0.1 (identity `id`) to 10.0.0.2:80 in namespace `a`.
fn decide(table: &PolicyTable, bound: &[&str], id: Option<&str>) -> String {
    let id = id.map(|id| id.parse::<Identity>().unwrap());
    let flow = Flow {
        src: "10.0.0.1:999".parse().unwrap(),
        identity: id.as_ref(),
        dst: "[::ffff:10.0.0.2]:80".parse().unwrap(),
    };
    match evaluate(table, &Destination { namespace: "a", policies: bound }, &flow, &|_| false, &mut |_| {}) {
        Verdict::Allow => "allow".into(),
        Verdict::Deny(reason) => reason.to_string(),
        Verdict::Unknown { policy } => format!("unknown {policy}"),
    }
}

const NONE: &str = "allow policies exist, but none allowed";
const BY_D: &str = "explicitly denied by: a/d";

#[test]
fn emptiness_means_what_the_contract_says() {
    use pb::Action::{Allow, Deny};
    let empty = pb::Match::default;
    for (what, rules, allow, deny) in [
        ("no rules", vec![], NONE, "allow"),
        ("a rule without clauses", any_port(), "allow", BY_D),
        ("a clause without matches", rule(vec![]), "allow", BY_D),
        ("a lone match without fields", rule(vec![empty()]), NONE, "allow"),
        ("beside a match that holds", rule(vec![empty(), port(80)]), "allow", BY_D),
        ("beside a match that does not", rule(vec![empty(), port(81)]), NONE, "allow"),
    ] {
        assert_eq!(
            decide(&table(vec![policy("d", Allow, rules.clone())]), &[], None),
            allow,
            "ALLOW, {what}"
        );
        assert_eq!(decide(&table(vec![policy("d", Deny, rules)]), &[], None), deny, "DENY, {what}");
    }
}

#[test]
fn fields_compare_what_the_contract_says() {
    let none = pb::Match::default;
    let net = |address: &[u8], length| vec![pb::Address { address: address.to_vec(), length }];
    let exact = |s: &str| vec![text(MatchType::Exact(s.into()))];
    let present = || vec![text(MatchType::Presence(()))];
    let sa = |namespace: &str, name: &str| {
        vec![pb::ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() }]
    };
    // What a match means to a connection with the identity WEB, and to one of plaintext.
    for (matching, mtls, plain) in [
        (pb::Match { namespaces: exact("a"), ..none() }, true, false),
        (pb::Match { namespaces: exact(""), ..none() }, false, true),
        (pb::Match { namespaces: present(), ..none() }, true, false),
        (pb::Match { not_namespaces: exact("a"), ..none() }, false, true),
        (pb::Match { principals: exact("td/ns/a/sa/web"), ..none() }, true, false),
        (pb::Match { principals: exact(WEB), ..none() }, false, false),
        (pb::Match { principals: vec![text(MatchType::Prefix("td/ns/a/".into()))], ..none() }, true, false),
        (pb::Match { principals: vec![text(MatchType::Prefix(String::new()))], ..none() }, true, false),
        (pb::Match { principals: vec![text(MatchType::Suffix("/sa/web".into()))], ..none() }, true, false),
        (pb::Match { principals: vec![text(MatchType::Suffix("/SA/web".into()))], ..none() }, false, false),
        (pb::Match { principals: present(), ..none() }, true, false),
        (pb::Match { not_principals: present(), ..none() }, false, true),
        (pb::Match { not_principals: exact("other"), ..none() }, true, true),
        (pb::Match { service_accounts: sa("a", "web"), ..none() }, true, false),
        (pb::Match { service_accounts: sa("b", "web"), ..none() }, false, false),
        (pb::Match { service_accounts: sa("a", "we"), ..none() }, false, false),
        (pb::Match { not_service_accounts: sa("a", "web"), ..none() }, false, true),
        (pb::Match { source_ips: net(&[10, 0, 0, 0], 8), ..none() }, true, true),
        (pb::Match { source_ips: net(&[10, 0, 0, 7], 30), ..none() }, false, false),
        (pb::Match { source_ips: net(&[0, 0, 0, 0], 0), ..none() }, true, true),
        (pb::Match { source_ips: net(&[0; 16], 0), ..none() }, false, false),
        (pb::Match { not_source_ips: net(&[10, 0, 0, 1], 32), ..none() }, false, false),
        (pb::Match { destination_ips: net(&[10, 0, 0, 2], 32), ..none() }, true, true),
        (pb::Match { not_destination_ips: net(&[10, 0, 0, 2], 32), ..none() }, false, false),
        (port(80), true, true),
        (port(81), false, false),
        (pb::Match { not_destination_ports: vec![80], ..none() }, false, false),
        (pb::Match { not_destination_ports: vec![81], ..none() }, true, true),
        // Field types are ANDed, the values of one ORed.
        (pb::Match { destination_ports: vec![81, 80], namespaces: exact("a"), ..none() }, true, false),
        (pb::Match { destination_ports: vec![80], not_destination_ports: vec![80], ..none() }, false, false),
    ] {
        let table = table(vec![policy("d", pb::Action::Deny, rule(vec![matching.clone()]))]);
        assert_eq!(decide(&table, &[], Some(WEB)) != "allow", mtls, "mutual TLS: {matching:?}");
        assert_eq!(decide(&table, &[], None) != "allow", plain, "plaintext: {matching:?}");
    }
}

#[test]
fn rules_are_ored_clauses_anded_matches_ored() {
    let clause = |ports: &[u32]| pb::Clause { matches: ports.iter().map(|p| port(*p)).collect() };
    let rules = |rules: Vec<Vec<&[u32]>>| -> Vec<pb::Rule> {
        rules
            .into_iter()
            .map(|clauses| pb::Rule { clauses: clauses.into_iter().map(clause).collect() })
            .collect()
    };
    for (wire, want) in [
        (rules(vec![vec![&[80]]]), true),
        (rules(vec![vec![&[81, 80]]]), true),
        (rules(vec![vec![&[80], &[81]]]), false),
        (rules(vec![vec![&[80], &[81]], vec![&[80]]]), true),
        (rules(vec![vec![&[80, 1], &[80, 2]]]), true),
    ] {
        let table = table(vec![policy("d", pb::Action::Deny, wire.clone())]);
        assert_eq!(decide(&table, &[], None) == BY_D, want, "{wire:?}");
    }
}

#[test]
fn deny_comes_before_allow_and_dry_runs_do_not_count() {
    use pb::Action::{Allow, Deny};
    let dry = |wire: pb::Authorization| pb::Authorization { dry_run: true, ..wire };
    for (policies, want) in [
        (vec![], "allow"),
        (vec![policy("x", Allow, any_port())], "allow"),
        (vec![policy("x", Allow, any_port()), policy("d", Deny, any_port())], BY_D),
        (vec![policy("x", Allow, rule(vec![port(1)])), policy("y", Allow, rule(vec![port(80)]))], "allow"),
        (vec![policy("x", Allow, rule(vec![port(1)])), policy("y", Deny, rule(vec![port(1)]))], NONE),
        (vec![dry(policy("x", Allow, rule(vec![port(1)])))], "allow"),
        (vec![dry(policy("d", Deny, any_port()))], "allow"),
        (vec![dry(policy("x", Allow, any_port())), policy("y", Allow, rule(vec![port(1)]))], NONE),
    ] {
        assert_eq!(decide(&table(policies.clone()), &[], None), want, "{policies:?}");
    }
}

#[test]
fn scope_selects_the_policies() {
    let deny = |namespace: &str, scope: pb::Scope| pb::Authorization {
        namespace: namespace.into(),
        scope: scope.into(),
        ..policy("d", pb::Action::Deny, any_port())
    };
    use pb::Scope::{Global, Namespace, WorkloadSelector};
    for (wire, bound, want) in [
        (deny("a", Namespace), &[][..], BY_D),
        (deny("b", Namespace), &[], "allow"),
        (deny("b", Global), &[], "explicitly denied by: b/d"),
        (deny("a", WorkloadSelector), &[], "allow"),
        (deny("a", WorkloadSelector), &["a/d"], BY_D),
        (deny("b", WorkloadSelector), &["b/d"], "explicitly denied by: b/d"),
        (deny("b", Namespace), &["b/d"], "explicitly denied by: b/d"),
    ] {
        assert_eq!(decide(&table(vec![wire.clone()]), bound, None), want, "{wire:?} {bound:?}");
    }
}

#[test]
fn a_named_policy_that_is_missing_leaves_it_open_unless_a_deny_matches() {
    use pb::Action::{Allow, Deny};
    let allow = || policy("x", Allow, any_port());
    assert_eq!(decide(&table(vec![]), &["a/gone"], None), "unknown a/gone");
    assert_eq!(decide(&table(vec![allow()]), &["a/gone", "a/too"], None), "unknown a/gone");
    assert_eq!(decide(&table(vec![allow(), policy("d", Deny, any_port())]), &["a/gone"], None), BY_D);
    // Without it the others decide.
    let flow =
        Flow { src: "10.0.0.1:9".parse().unwrap(), identity: None, dst: "10.0.0.2:80".parse().unwrap() };
    let bound = Destination { namespace: "a", policies: &["a/gone", "a/too"] };
    let decide = |absent: &dyn Fn(&str) -> bool, policies| {
        evaluate(&table(policies), &bound, &flow, absent, &mut |_| {})
    };
    assert_eq!(decide(&|_| true, vec![allow()]), Verdict::Allow);
    assert_eq!(decide(&|_| true, vec![policy("x", Allow, vec![])]), Verdict::Deny(DenyReason::NoneAllowed));
    assert_eq!(decide(&|key| key == "a/gone", vec![]), Verdict::Unknown { policy: "a/too" });
}

const UNSURE: &str = "explicitly denied by: a/d (a value could not be decoded)";

#[test]
fn the_rule_that_decides_is_the_first_of_its_value() {
    let unset =
        || rule(vec![pb::Match { namespaces: vec![pb::StringMatch { match_type: None }], ..port(80) }]);
    let decides = |rules: Vec<Vec<pb::Rule>>| {
        let (policy, _) = Policy::decode("a/d", policy("d", pb::Action::Deny, rules.concat()));
        let (src, dst) = ("10.0.0.1:999".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        examine(&policy, &Flow { src, identity: None, dst }, &mut ())
    };
    let (no, yes) = (|| rule(vec![port(81)]), || rule(vec![port(80)]));
    assert_eq!(decides(vec![no(), unset(), unset(), no()]), (Truth::Unknown, 1));
    assert_eq!(decides(vec![unset(), yes(), yes()]), (Truth::True, 1));
    assert_eq!(decides(vec![no(), no()]), (Truth::False, 0));
}

#[test]
fn a_deny_matches_what_is_unknown_and_an_allow_does_not() {
    use pb::Action::{Allow, Deny};
    let none = pb::Match::default;
    let unset = || vec![pb::StringMatch { match_type: None }];
    let exact = |s: &str| text(MatchType::Exact(s.into()));
    let bad = || vec![pb::Address { address: vec![1, 2, 3], length: 8 }];
    let or = |values: Vec<pb::StringMatch>| [unset(), values].concat();
    for (what, rules, allow, deny) in [
        ("an unset pattern", rule(vec![pb::Match { namespaces: unset(), ..none() }]), NONE, UNSURE),
        ("a negated one", rule(vec![pb::Match { not_principals: unset(), ..none() }]), NONE, UNSURE),
        ("a bad network", rule(vec![pb::Match { source_ips: bad(), ..none() }]), NONE, UNSURE),
        ("a port that is none", rule(vec![port(65_536)]), NONE, UNSURE),
        (
            "beside one that matches",
            rule(vec![pb::Match { namespaces: or(vec![exact("a")]), ..none() }]),
            "allow",
            BY_D,
        ),
        (
            "beside one that does not",
            rule(vec![pb::Match { namespaces: or(vec![exact("b")]), ..none() }]),
            NONE,
            UNSURE,
        ),
        (
            "negated, beside one that matches",
            rule(vec![pb::Match { not_namespaces: or(vec![exact("a")]), ..none() }]),
            NONE,
            "allow",
        ),
        ("and a test that fails", rule(vec![pb::Match { namespaces: unset(), ..port(81) }]), NONE, "allow"),
        ("and a test that holds", rule(vec![pb::Match { namespaces: unset(), ..port(80) }]), NONE, UNSURE),
        (
            "or a match that holds",
            rule(vec![pb::Match { namespaces: unset(), ..none() }, port(80)]),
            "allow",
            BY_D,
        ),
        (
            "or a match that fails",
            rule(vec![pb::Match { namespaces: unset(), ..none() }, port(81)]),
            NONE,
            UNSURE,
        ),
        (
            "or a rule that holds",
            [rule(vec![pb::Match { namespaces: unset(), ..none() }]), any_port()].concat(),
            "allow",
            BY_D,
        ),
    ] {
        let decide = |action| decide(&table(vec![policy("d", action, rules.clone())]), &[], Some(WEB));
        assert_eq!((decide(Allow), decide(Deny)), (allow.into(), deny.into()), "{what}");
    }
}

#[test]
fn an_unknown_scope_is_its_namespace_and_an_unknown_action_denies_what_matches() {
    let wire = |scope, action, namespace: &str| pb::Authorization {
        scope,
        action,
        namespace: namespace.into(),
        ..policy("d", pb::Action::Deny, rule(vec![port(80)]))
    };
    let (selector, deny, unknown) = (pb::Scope::WorkloadSelector.into(), pb::Action::Deny.into(), 9);
    let elsewhere = "explicitly denied by: b/d";
    for (wire, bound, want) in [
        (wire(unknown, deny, "a"), &[][..], BY_D),
        (wire(unknown, deny, "b"), &[], "allow"),
        (wire(unknown, deny, "b"), &["b/d"], elsewhere),
        (wire(unknown, pb::Action::Allow.into(), "a"), &[], "allow"),
        (wire(selector, unknown, "a"), &[], "allow"),
        (wire(selector, unknown, "a"), &["a/d"], BY_D),
        (
            pb::Authorization { rules: rule(vec![port(81)]), ..wire(selector, unknown, "a") },
            &["a/d"],
            "allow",
        ),
        (wire(unknown, unknown, "a"), &[], BY_D),
    ] {
        assert_eq!(decide(&table(vec![wire.clone()]), bound, None), want, "{wire:?} {bound:?}");
    }
}

#[test]
fn bytes_that_are_no_policy_let_nobody_in_where_they_may_apply() {
    let broken = |scope: pb::Scope| {
        let wire = pb::Authorization { scope: scope.into(), ..policy("d", pb::Action::Allow, any_port()) };
        [wire.encode_to_vec(), vec![0xff; 9]].concat()
    };
    for (key, bytes, bound, want) in [
        ("a/d", vec![0xff; 9], &[][..], UNSURE),
        ("a/d", broken(pb::Scope::WorkloadSelector), &[], "allow"),
        ("a/d", broken(pb::Scope::WorkloadSelector), &["a/d"], UNSURE),
        ("a/d", broken(pb::Scope::Namespace), &[], UNSURE),
        ("a/d", broken(pb::Scope::Global), &[], UNSURE),
        ("b/d", broken(pb::Scope::Global), &[], "allow"),
        ("d", vec![0xff; 9], &[], "allow"),
        ("d", vec![0xff; 9], &["d"], "explicitly denied by: d (a value could not be decoded)"),
    ] {
        let (policy, faults) = Policy::read(key, &bytes);
        assert!(faults.is_whole(), "{faults}");
        let table = PolicyTable::default().with(vec![PolicyChange::Upsert(policy)]);
        assert_eq!(decide(&table, bound, Some(WEB)), want, "{key} {bytes:?} {bound:?}");
    }
}

#[test]
fn peer_authentication_keeps_plaintext_out() {
    let strict = pb::Authorization {
        namespace: "istio-system".into(),
        scope: pb::Scope::WorkloadSelector.into(),
        ..policy(
            "istio_converted_static_strict",
            pb::Action::Deny,
            rule(vec![pb::Match {
                not_principals: vec![text(MatchType::Presence(()))],
                ..Default::default()
            }]),
        )
    };
    let bound = ["istio-system/istio_converted_static_strict"];
    let table = table(vec![strict]);
    assert_eq!(decide(&table, &bound, Some(WEB)), "allow");
    assert_eq!(decide(&table, &bound, None), format!("explicitly denied by: {}", bound[0]));
}

#[test]
fn an_address_of_either_end_may_be_mapped_to_ipv6() {
    let net = |last| vec![pb::Address { address: vec![10, 0, 0, last], length: 32 }];
    let both = pb::Match { source_ips: net(1), destination_ips: net(2), ..Default::default() };
    let table = table(vec![policy("d", pb::Action::Deny, rule(vec![both]))]);
    for src in ["10.0.0.1:999", "[::ffff:10.0.0.1]:999"] {
        for dst in ["10.0.0.2:80", "[::ffff:10.0.0.2]:80"] {
            let flow = Flow { src: src.parse().unwrap(), identity: None, dst: dst.parse().unwrap() };
            let to = Destination::<&str> { namespace: "a", policies: &[] };
            let verdict = evaluate(&table, &to, &flow, &|_| false, &mut |_| {});
            assert!(matches!(verdict, Verdict::Deny(_)), "from {src} to {dst}");
        }
    }
}

#[test]
fn dry_runs_are_logged_once_and_the_rule_that_denied_is_known() {
    use pb::Action::{Allow, Deny};
    let dry = |name, action, rules| pb::Authorization { dry_run: true, ..policy(name, action, rules) };
    let mut rules = rule(vec![port(1)]);
    rules.extend(rule(vec![port(80)]));
    let dry_runs = vec![
        dry("deny-hit", Deny, rules.clone()),
        dry("deny-miss", Deny, rule(vec![port(1)])),
        dry("allow-hit", Allow, any_port()),
        dry("allow-miss", Allow, vec![]),
    ];
    let flow =
        Flow { src: "10.0.0.1:999".parse().unwrap(), identity: None, dst: "10.0.0.2:80".parse().unwrap() };
    let run = |table: &PolicyTable| {
        let mut logged = Vec::new();
        let destination = Destination { namespace: "a", policies: &["a/deny-hit"] };
        let verdict = evaluate(table, &destination, &flow, &|_| false, &mut |dry| {
            logged.push((dry.policy.name().to_owned(), dry.matched));
        });
        let rule = match verdict {
            Verdict::Deny(DenyReason::Explicit { rule, .. }) => Some(rule),
            _ => None,
        };
        (rule, logged)
    };
    let (rule, logged) = run(&table(dry_runs.clone()));
    assert_eq!(rule, None);
    assert_eq!(logged, [("deny-hit".into(), true), ("allow-hit".into(), true), ("allow-miss".into(), false)]);
    let (rule, logged) = run(&table([dry_runs, vec![policy("a-real-one", Deny, rules)]].concat()));
    assert_eq!((rule, logged), (Some(1), vec![("deny-hit".into(), true)]));
}

fn strings() -> impl Strategy<Value = Vec<pb::StringMatch>> {
    let word = prop::sample::select(vec!["", "a", "b", "td/ns/a/sa/web", "td", "web", "/"]);
    let one = (word, 0..5).prop_map(|(word, kind)| {
        text(match kind {
            0 => MatchType::Exact(word.into()),
            1 => MatchType::Prefix(word.into()),
            2 => MatchType::Suffix(word.into()),
            3 => MatchType::Presence(()),
            _ => return pb::StringMatch { match_type: None },
        })
    });
    sparse(one)
}

/// Mostly nothing, so that matches of a few attributes are common.
fn sparse<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    (prop::bool::weighted(0.2), prop::collection::vec(one, 1..3)).prop_map(
        |(some, values)| {
            if some { values } else { vec![] }
        },
    )
}

fn addresses() -> impl Strategy<Value = Vec<pb::Address>> {
    let v4 = ([10..11_u8, 0..2, 0..2, 0..3], 0..=32_u32)
        .prop_map(|(ip, length)| pb::Address { address: ip.to_vec(), length });
    let v6 = (0..2_u8, 0..=128_u32).prop_map(|(last, length)| {
        let address = [vec![0xfd; 2], vec![0; 13], vec![last]].concat();
        pb::Address { address, length }
    });
    let bad = prop::sample::select(vec![(vec![], 0), (vec![10, 0, 0], 8), (vec![10, 0, 0, 0], 33)])
        .prop_map(|(address, length)| pb::Address { address, length });
    sparse(prop_oneof![4 => v4, 4 => v6, 1 => bad])
}

fn matches() -> impl Strategy<Value = pb::Match> {
    let ports = || sparse(prop_oneof![6 => 79..82_u32, 1 => Just(70_000)]);
    let account = (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["web", "db"])).prop_map(
        |(namespace, name)| pb::ServiceAccountMatch {
            namespace: namespace.into(),
            service_account: name.into(),
        },
    );
    let lists = (strings(), strings(), strings(), strings(), addresses(), addresses());
    let more = (addresses(), addresses(), ports(), ports(), sparse(account.clone()), sparse(account));
    (lists, more).prop_map(|(lists, more)| pb::Match {
        namespaces: lists.0,
        not_namespaces: lists.1,
        principals: lists.2,
        not_principals: lists.3,
        source_ips: lists.4,
        not_source_ips: lists.5,
        destination_ips: more.0,
        not_destination_ips: more.1,
        destination_ports: more.2,
        not_destination_ports: more.3,
        service_accounts: more.4,
        not_service_accounts: more.5,
        extensions: vec![],
    })
}

fn policies() -> impl Strategy<Value = Vec<pb::Authorization>> {
    let clause = prop::collection::vec(matches(), 0..3).prop_map(|matches| pb::Clause { matches });
    let rule = prop::collection::vec(clause, 0..3).prop_map(|clauses| pb::Rule { clauses });
    // The last scope and the last action are unknown.
    let scope = prop_oneof![6 => 0..3, 1 => Just(9)];
    let action = prop_oneof![6 => 0..2, 1 => Just(7)];
    let one = (prop::collection::vec(rule, 0..3), scope, action, prop::bool::weighted(0.2), 0..2_u8)
        .prop_map(|(rules, scope, action, dry_run, ns)| pb::Authorization {
            namespace: if ns == 0 { "a" } else { "b" }.into(),
            scope,
            action,
            dry_run,
            rules,
            ..Default::default()
        });
    prop::collection::vec(one, 0..5).prop_map(|mut policies| {
        for (n, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("p{n}");
        }
        policies
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn the_compiled_policies_agree_with_a_literal_reading(
        policies in policies(),
        bound in prop::collection::vec(("[ab]", 0..5_u8).prop_map(|(ns, n)| format!("{ns}/p{n}")), 0..3),
        id in prop::option::of(prop::sample::select(vec![WEB, "spiffe://td/ns/b/sa/web", "spiffe://x/ns/a/sa/db"])),
        v6 in any::<bool>(),
    ) {
        let id = id.map(|id| id.parse::<Identity>().unwrap());
        let (src, dst) = if v6 { ("[fdfd::1]:9", "[fdfd::2]:80") } else { ("10.0.0.1:9", "10.0.1.2:80") };
        let flow = Flow { src: src.parse().unwrap(), identity: id.as_ref(), dst: dst.parse().unwrap() };
        prop_assume!(policies.iter().all(|policy| oracle::unknowns(policy) <= 10));
        let table = table(policies.clone());
        let got = match evaluate(&table, &Destination { namespace: "a", policies: &bound }, &flow, &|_| false, &mut |_| {}) {
            Verdict::Allow => "allow",
            Verdict::Deny(_) => "deny",
            Verdict::Unknown { .. } => "unknown",
        };
        prop_assert_eq!(got, oracle::verdict(&policies, &bound, &flow));
    }

    #[test]
    fn damaged_policies_are_evaluated_without_a_panic(
        policies in policies(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for policy in policies {
            let mut bytes = policy.encode_to_vec();
            for (at, byte) in flips.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let (policy, _) = Policy::read("a/p", &bytes);
            let table = PolicyTable::default().with(vec![PolicyChange::Upsert(policy)]);
            decide(&table, &["a/p"], Some(WEB));
        }
    }
}
