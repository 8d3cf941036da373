//! Policies against a slow model, which was written from docs/spec/dataplane.md 5 and docs/spec/protos.md 2 alone. What
//! cannot be decoded may be anything, as docs/differences.md has it.

mod policies;

use std::{collections::BTreeSet, net::IpAddr};

use policies::{Sent, step};

use super::*;
use crate::protocols::property::{Tally, check};

/// What is known of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Yes,
    No,
    Maybe,
}
use Known::{Maybe, No, Yes};

/// A decision of the model.
#[derive(Debug, PartialEq)]
enum Decision {
    Allow,
    Denied,
    NoneAllowed,
    /// A policy with one of these keys has to come first.
    Waits(Vec<String>),
}

/// The policies that were sent last, by their keys, in any order.
#[derive(Clone, Debug, Default)]
struct Model(Vec<(String, Sent)>);

/// A connection, all of it in the words of the contract.
#[derive(Clone, Debug)]
struct Connection {
    source: IpAddr,
    identity: Option<&'static str>,
    destination: IpAddr,
    port: u16,
}

fn known(yes: bool) -> Known {
    if yes { Yes } else { No }
}

fn any(all: Vec<Known>) -> Known {
    match all {
        all if all.contains(&Yes) => Yes,
        all if all.contains(&Maybe) => Maybe,
        _ => No,
    }
}

fn all(all: Vec<Known>) -> Known {
    match all {
        all if all.contains(&No) => No,
        all if all.contains(&Maybe) => Maybe,
        _ => Yes,
    }
}

fn not(known: Known) -> Known {
    match known {
        Yes => No,
        No => Yes,
        Maybe => Maybe,
    }
}

/// `None` is the principal of somebody without identity, whom nothing matches.
fn text(pattern: &pb::StringMatch, value: Option<&str>) -> Known {
    let Some(kind) = &pattern.match_type else { return Maybe };
    let Some(value) = value else { return No };
    known(match kind {
        MatchType::Exact(want) => value == want,
        MatchType::Prefix(want) => value.len() >= want.len() && value[..want.len()] == want[..],
        MatchType::Suffix(want) => value.len() >= want.len() && value[value.len() - want.len()..] == want[..],
        MatchType::Presence(()) => !value.is_empty(),
    })
}

/// The bits of an address, as text.
fn bits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:08b}")).collect()
}

fn bits_of(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => bits(&ip.octets()),
        IpAddr::V6(ip) => bits(&ip.octets()),
    }
}

/// The bits of IPv4 in IPv6, which the contract takes for IPv4.
fn plain(bits: &str) -> &str {
    let mapped = "0".repeat(80) + &"1".repeat(16);
    bits.strip_prefix(&mapped).unwrap_or(bits)
}

fn contains(network: &pb::Address, ip: IpAddr) -> Known {
    let (net, ip, length) = (bits(&network.address), bits_of(ip), network.length as usize);
    if ![32, 128].contains(&net.len()) || length > net.len() {
        return Maybe;
    }
    let prefix = net.len() - plain(&net).len();
    if length < prefix {
        return Maybe;
    }
    let (net, ip, length) = (plain(&net), plain(&ip), length - prefix);
    known(net.len() == ip.len() && net[..length] == ip[..length])
}

/// `spiffe://td/ns/N/sa/S` cut at its slashes: trust domain, namespace, account.
fn parts(identity: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = identity.split('/').collect();
    (parts[2], parts[4], parts[6])
}

impl Connection {
    fn matched(&self, m: &pb::Match) -> Known {
        let namespace = self.identity.map_or("", |id| parts(id).1);
        let principal = self.identity.map(|id| id.replace("spiffe://", ""));
        let mut fields = Vec::new();
        let mut field = |present: bool, value: Known| {
            if present {
                fields.push(value);
            }
        };
        let named = |list: &[pb::StringMatch]| any(list.iter().map(|p| text(p, Some(namespace))).collect());
        field(!m.namespaces.is_empty(), named(&m.namespaces));
        field(!m.not_namespaces.is_empty(), not(named(&m.not_namespaces)));
        let called =
            |list: &[pb::StringMatch]| any(list.iter().map(|p| text(p, principal.as_deref())).collect());
        field(!m.principals.is_empty(), called(&m.principals));
        field(!m.not_principals.is_empty(), not(called(&m.not_principals)));
        let holds = |list: &[pb::Address], ip| any(list.iter().map(|net| contains(net, ip)).collect());
        field(!m.source_ips.is_empty(), holds(&m.source_ips, self.source));
        field(!m.not_source_ips.is_empty(), not(holds(&m.not_source_ips, self.source)));
        field(!m.destination_ips.is_empty(), holds(&m.destination_ips, self.destination));
        field(!m.not_destination_ips.is_empty(), not(holds(&m.not_destination_ips, self.destination)));
        let to = |list: &[u32]| {
            let one = |&port: &u32| if port > 65_535 { Maybe } else { known(port == u32::from(self.port)) };
            any(list.iter().map(one).collect())
        };
        field(!m.destination_ports.is_empty(), to(&m.destination_ports));
        field(!m.not_destination_ports.is_empty(), not(to(&m.not_destination_ports)));
        let is = |list: &[pb::ServiceAccountMatch]| {
            let one = |account: &pb::ServiceAccountMatch| {
                let same = |id| (parts(id).1, parts(id).2) == (&account.namespace, &account.service_account);
                known(self.identity.is_some_and(same))
            };
            any(list.iter().map(one).collect())
        };
        field(!m.service_accounts.is_empty(), is(&m.service_accounts));
        field(!m.not_service_accounts.is_empty(), not(is(&m.not_service_accounts)));
        if fields.is_empty() { No } else { all(fields) }
    }

    fn by_rule(&self, rule: &pb::Rule) -> Known {
        let clause = |clause: &pb::Clause| match clause.matches.is_empty() {
            true => Yes,
            false => any(clause.matches.iter().map(|m| self.matched(m)).collect()),
        };
        all(rule.clauses.iter().map(clause).collect())
    }

    /// What is known of each rule of a policy. What is no policy at all has one, of which nothing is known.
    fn by_rules(&self, sent: &Sent) -> Vec<Known> {
        match sent {
            Sent::Policy(policy) => policy.rules.iter().map(|rule| self.by_rule(rule)).collect(),
            Sent::Rubbish { .. } => vec![Maybe],
        }
    }
}

impl Model {
    fn get(&self, key: &str) -> Option<&Sent> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, sent)| sent)
    }

    fn applying<'a>(&'a self, namespace: &str, keys: &[String]) -> Vec<(&'a str, &'a Sent)> {
        let applies = |key: &String, sent: &Sent| {
            let (scope, home) = match sent {
                Sent::Policy(policy) => (policy.scope, policy.namespace.as_str()),
                Sent::Rubbish { scope } => (scope.unwrap_or(99), key.split('/').next().unwrap()),
            };
            let covers = match scope {
                0 => true,
                2 => false,
                // An unknown scope is at least that of the namespace.
                _ => home == namespace,
            };
            covers || keys.contains(key)
        };
        self.0
            .iter()
            .filter(|(key, sent)| applies(key, sent))
            .map(|(key, sent)| (key.as_str(), sent))
            .collect()
    }

    /// The decision, and the dry runs that are logged.
    fn decide(
        &self,
        (namespace, keys): (&str, &[String]),
        connection: &Connection,
        absent: &dyn Fn(&str) -> bool,
    ) -> (Decision, BTreeSet<(String, bool)>) {
        let applying = self.applying(namespace, keys);
        let mut log = BTreeSet::new();
        let of = |deny: bool, dry: bool| {
            applying.iter().filter(move |(_, p)| (p.denies(), p.is_dry()) == (deny, dry))
        };
        let matches = |sent: &Sent| any(connection.by_rules(sent));
        log.extend(
            of(true, true).filter(|(_, p)| matches(p) != No).map(|(key, _)| ((*key).to_owned(), true)),
        );
        if of(true, false).any(|(_, p)| matches(p) != No) {
            return (Decision::Denied, log);
        }
        let waits: Vec<String> =
            keys.iter().filter(|key| self.get(key).is_none() && !absent(key)).cloned().collect();
        if !waits.is_empty() {
            return (Decision::Waits(waits), log);
        }
        log.extend(of(false, true).map(|(key, p)| ((*key).to_owned(), matches(p) == Yes)));
        if of(false, false).next().is_none() || of(false, false).any(|(_, p)| matches(p) == Yes) {
            return (Decision::Allow, log);
        }
        (Decision::NoneAllowed, log)
    }
}

/// What the proxy decides, after it was checked that a policy that denies is one that applies and matches.
fn decide(
    (table, model): (&PolicyTable, &Model),
    (namespace, keys): (&str, &[String]),
    connection: &Connection,
    absent: &dyn Fn(&str) -> bool,
) -> (Decision, BTreeSet<(String, bool)>) {
    let identity = connection.identity.map(|id| id.parse::<Identity>().unwrap());
    let flow = Flow {
        src: (connection.source, 4321).into(),
        identity: identity.as_ref(),
        dst: (connection.destination, connection.port).into(),
    };
    let mut log = BTreeSet::new();
    let mut note = |dry: DryRun<'_>| {
        assert!(log.insert((dry.policy.key().to_owned(), dry.matched)), "a dry run is logged once");
    };
    let destination = Destination { namespace, policies: keys };
    let decision = match evaluate(table, &destination, &flow, absent, &mut note) {
        Verdict::Allow => Decision::Allow,
        Verdict::Deny(DenyReason::NoneAllowed) => Decision::NoneAllowed,
        Verdict::Deny(DenyReason::Explicit { policy, rule, certain }) => {
            let applying = model.applying(namespace, keys);
            let (_, sent) = applying.iter().find(|(key, _)| *key == policy.key()).expect("it applies");
            assert!(sent.denies() && !sent.is_dry(), "{policy:?}");
            let rules = connection.by_rules(sent);
            assert_eq!(rules[rule], if certain { Yes } else { Maybe }, "{policy:?}");
            assert!(certain || !rules.contains(&Yes), "{policy:?}");
            Decision::Denied
        }
        Verdict::Unknown { policy } => Decision::Waits(vec![policy.to_owned()]),
    };
    (decision, log)
}

#[test]
fn decisions_are_those_of_a_slow_model_of_the_contract() {
    let tally = Tally::default();
    let all = (policies::history(), policies::destinations(), policies::connections());
    check(1500, &all, |(history, destinations, connections)| {
        let (mut table, mut model) = (PolicyTable::default(), Model::default());
        for batch in history {
            table = table.with(batch.into_iter().map(|change| step(change, &mut model.0)).collect());
        }
        prop_assert_eq!(table.len(), model.0.len());
        for (namespace, keys, absent) in &destinations {
            let absent = |key: &str| absent.iter().any(|gone| gone == key);
            for connection in &connections {
                let to = (*namespace, keys.as_slice());
                let (want, want_log) = model.decide(to, connection, &absent);
                let (got, log) = decide((&table, &model), to, connection, &absent);
                let equal = match (&want, &got) {
                    (Decision::Waits(any), Decision::Waits(one)) => any.contains(&one[0]),
                    _ => want == got,
                };
                prop_assert!(equal, "{want:?} became {got:?} for {connection:?} to {to:?}");
                prop_assert_eq!(&want_log, &log, "dry runs of {:?} to {:?}", connection, to);
                tally.count(match want {
                    Decision::Allow => "allowed",
                    Decision::Denied => "denied",
                    Decision::NoneAllowed => "not allowed",
                    Decision::Waits(_) => "open",
                });
                log.iter()
                    .for_each(|(_, matched)| tally.count(if *matched { "dry hit" } else { "dry miss" }));
            }
        }
        Ok(())
    });
    let all = ["allowed", "denied", "not allowed", "open", "dry hit", "dry miss"];
    tally.has_each_of(&all, 10);
}
