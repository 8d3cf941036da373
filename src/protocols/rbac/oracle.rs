//! The contract read off the wire messages, as literally as possible. A value that cannot be decoded is tried as one
//! that matches and as one that does not, in all combinations: a DENY counts if any combination matches, an ALLOW if all
//! do.

use std::net::{IpAddr, SocketAddr};

use super::Flow;
use crate::protocols::pb::security::{self as pb, string_match::MatchType};

/// The decision about a connection to a workload of the namespace "a" that names the policies `bound`.
pub(crate) fn verdict(policies: &[pb::Authorization], bound: &[String], flow: &Flow<'_>) -> &'static str {
    let known = |p: &pb::Authorization| bound.contains(&format!("{}/{}", p.namespace, p.name));
    let selected: Vec<&pb::Authorization> = policies
        .iter()
        .filter(|p| match p.scope {
            0 => true,
            1 => p.namespace == "a" || known(p),
            2 => known(p),
            // Not decoded: as for a namespace.
            _ => p.namespace == "a" || known(p),
        })
        .filter(|p| !p.dry_run)
        .collect();
    let allow = |p: &&&pb::Authorization| p.action == 0;
    if selected.iter().filter(|p| !allow(p)).any(|p| outcomes(p, flow).contains(&true)) {
        return "deny";
    }
    let missing = |key: &&String| !policies.iter().any(|p| **key == format!("{}/{}", p.namespace, p.name));
    if bound.iter().any(|key| missing(&key)) {
        return "unknown";
    }
    let mut allows = selected.iter().filter(allow).peekable();
    if allows.peek().is_none() || allows.any(|p| !outcomes(p, flow).contains(&false)) {
        return "allow";
    }
    "deny"
}

/// The number of values of a policy that cannot be decoded.
pub(crate) fn unknowns(policy: &pb::Authorization) -> u32 {
    let count = std::cell::Cell::new(0);
    hits(policy, &flow_of_nobody(), &|| {
        count.set(count.get() + 1);
        false
    });
    count.get()
}

fn flow_of_nobody() -> Flow<'static> {
    Flow { src: "10.0.0.1:1".parse().unwrap(), identity: None, dst: "10.0.0.2:1".parse().unwrap() }
}

/// Whether the policy matches, for each combination of what the unknown values may mean.
fn outcomes(policy: &pb::Authorization, flow: &Flow<'_>) -> Vec<bool> {
    (0..1_u64 << unknowns(policy))
        .map(|combination| {
            let next = std::cell::Cell::new(0);
            hits(policy, flow, &|| {
                let bit = next.replace(next.get() + 1);
                combination >> bit & 1 == 1
            })
        })
        .collect()
}

/// Looks at every value, so that the n-th call of `unknown` is always about the same value.
fn hits(policy: &pb::Authorization, flow: &Flow<'_>, unknown: &dyn Fn() -> bool) -> bool {
    let mut any_rule = false;
    for rule in &policy.rules {
        let mut all_clauses = true;
        for clause in &rule.clauses {
            let mut any_match = clause.matches.is_empty();
            for m in &clause.matches {
                any_match |= matched(m, flow, unknown).unwrap_or(false);
            }
            all_clauses &= any_match;
        }
        any_rule |= all_clauses;
    }
    any_rule
}

/// None if no attribute is set.
fn matched(m: &pb::Match, flow: &Flow<'_>, unknown: &dyn Fn() -> bool) -> Option<bool> {
    let mut said = Vec::new();
    let mut list = |hits: Vec<Option<bool>>, negated: bool| {
        let hits: Vec<bool> = hits.into_iter().map(|hit| hit.unwrap_or_else(unknown)).collect();
        if !hits.is_empty() {
            said.push(hits.contains(&true) != negated);
        }
    };
    let ns = flow.identity.map(|i| i.namespace()).unwrap_or_default();
    let spiffe = flow.identity.map(|i| i.to_string().replace("spiffe://", ""));
    let principal = |s: &pb::StringMatch| {
        s.match_type.as_ref()?;
        Some(spiffe.as_deref().is_some_and(|p| string(s, p) == Some(true)))
    };
    list(m.namespaces.iter().map(|s| string(s, ns)).collect(), false);
    list(m.not_namespaces.iter().map(|s| string(s, ns)).collect(), true);
    list(m.principals.iter().map(principal).collect(), false);
    list(m.not_principals.iter().map(principal).collect(), true);
    list(m.source_ips.iter().map(|a| net(a, flow.src)).collect(), false);
    list(m.not_source_ips.iter().map(|a| net(a, flow.src)).collect(), true);
    list(m.destination_ips.iter().map(|a| net(a, flow.dst)).collect(), false);
    list(m.not_destination_ips.iter().map(|a| net(a, flow.dst)).collect(), true);
    let port = |p: &u32| (*p < 65_536).then(|| *p == u32::from(flow.dst.port()));
    list(m.destination_ports.iter().map(port).collect(), false);
    list(m.not_destination_ports.iter().map(port).collect(), true);
    let account = |s: &pb::ServiceAccountMatch| {
        let end = format!("/ns/{}/sa/{}", s.namespace, s.service_account);
        Some(spiffe.as_deref().is_some_and(|p| p.ends_with(&end)))
    };
    list(m.service_accounts.iter().map(account).collect(), false);
    list(m.not_service_accounts.iter().map(account).collect(), true);
    (!said.is_empty()).then(|| !said.contains(&false))
}

/// None if the pattern cannot be decoded.
fn string(s: &pb::StringMatch, text: &str) -> Option<bool> {
    Some(match s.match_type.as_ref()? {
        MatchType::Exact(want) => text == want,
        MatchType::Prefix(want) => text.starts_with(want.as_str()),
        MatchType::Suffix(want) => text.ends_with(want.as_str()),
        MatchType::Presence(()) => !text.is_empty(),
    })
}

/// None if the network cannot be decoded.
fn net(network: &pb::Address, addr: SocketAddr) -> Option<bool> {
    let bits = |bytes: &[u8]| -> Vec<bool> {
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1 == 1)).collect()
    };
    let ip = match addr.ip() {
        IpAddr::V4(ip) => bits(&ip.octets()),
        IpAddr::V6(ip) => bits(&ip.octets()),
    };
    let network_bits = bits(&network.address);
    let length = network.length as usize;
    if ![32, 128].contains(&network_bits.len()) || length > network_bits.len() {
        return None;
    }
    Some(ip.len() == network_bits.len() && ip[..length] == network_bits[..length])
}
