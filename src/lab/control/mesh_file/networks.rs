//! Networks: what a file says once of a network becomes properties of its pods and of the services.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::{
    gateway::Gateway,
    mesh::{Network, Pod, Service, Vip, pods_behind},
    problem::Problem,
    raw,
};

/// The networks that are being checked, and the problems so far.
struct Networks<'a> {
    nodes: &'a BTreeMap<String, IpAddr>,
    taken: HashSet<String>,
    problems: Vec<Problem>,
}

/// Checks the networks. A network's pods get its name and its gateway, unless they say otherwise. Services get their
/// addresses on every network, and the identities of their endpoints, as proxies of other networks need them.
pub(super) fn apply(
    raw: Vec<raw::Network>,
    nodes: &BTreeMap<String, IpAddr>,
    (pods, services): (&mut [Pod], &mut [Service]),
) -> Result<Vec<Network>, Vec<Problem>> {
    let mut check = Networks { nodes, taken: HashSet::new(), problems: Vec::new() };
    let named: Vec<(u64, Network)> = raw.into_iter().map(|network| check.network(network)).collect();
    for (_, network) in &named {
        for pod in pods.iter_mut().filter(|pod| network.nodes.contains(&pod.node)) {
            if pod.announce.network.is_empty() {
                pod.announce.network.clone_from(&network.name);
            }
        }
    }
    for (line, network) in &named {
        check.gateway(*line, network, pods, services);
    }
    let networks: Vec<Network> = named.into_iter().map(|(_, network)| network).collect();
    if !networks.is_empty() {
        services.iter_mut().for_each(|service| across(service, &networks, pods));
    }
    if check.problems.is_empty() { Ok(networks) } else { Err(check.problems) }
}

/// Makes a service known on all networks.
fn across(service: &mut Service, networks: &[Network], pods: &[Pod]) {
    let shared: Vec<_> =
        service.vips.iter().filter(|vip| vip.network.is_empty()).map(|vip| vip.addresses).collect();
    for network in networks {
        let vip = |addresses: &_| Vip { network: network.name.clone(), addresses: *addresses };
        service.vips.extend(shared.iter().map(vip));
    }
    for pod in service.endpoints.iter().filter_map(|index| pods.get(*index)) {
        let identity = pod.spiffe_id();
        if !service.subject_alt_names.contains(&identity) {
            service.subject_alt_names.push(identity);
        }
    }
}

// === impl Networks ===

impl Networks<'_> {
    fn problem(&mut self, line: u64, network: &str, what: &str) {
        self.problems.push(Problem { line, what: format!("network {network}: {what}") });
    }

    fn network(&mut self, raw: raw::Network) -> (u64, Network) {
        let (line, name) = (raw.name.referenced.line(), raw.name.value);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            self.problem(line, &name, "the name is not letters, digits and hyphens");
        }
        if !self.taken.insert(format!("network {name}")) {
            self.problem(line, &name, "there is another network of that name");
        }
        for node in &raw.nodes {
            if !self.nodes.contains_key(node) {
                self.problem(line, &name, &format!("there is no node {node:?}"));
            } else if !self.taken.insert(format!("node {node}")) {
                self.problem(line, &name, &format!("node {node:?} is on another network already"));
            }
        }
        let gateway = raw.gateway.and_then(|text| match text.parse() {
            Ok(gateway) => Some(gateway),
            Err(error) => {
                self.problem(line, &name, &format!("gateway {text:?}: {error}"));
                None
            }
        });
        (line, Network { name, nodes: raw.nodes, gateway })
    }

    /// Gives the network's pods its gateway. The pods of the gateway itself are reached directly.
    fn gateway(&mut self, line: u64, network: &Network, pods: &mut [Pod], services: &[Service]) {
        let Some(gateway) = &network.gateway else { return };
        let itself: Vec<(String, String)> = pods_behind(pods, services, gateway)
            .iter()
            .map(|pod| (pod.namespace.clone(), pod.name.clone()))
            .collect();
        if itself.is_empty() && !names_a_pod(gateway, pods) {
            self.problem(
                line,
                &network.name,
                &format!("gateway {gateway} is neither a pod nor a service with pods"),
            );
        }
        let is_behind = |pod: &&mut Pod| {
            pod.announce.network == network.name
                && pod.announce.network_gateway.is_none()
                && !itself.contains(&(pod.namespace.clone(), pod.name.clone()))
        };
        for pod in pods.iter_mut().filter(is_behind) {
            pod.announce.network_gateway = Some(gateway.to_string());
        }
    }
}

/// Whether a pod is known by the hostname of `gateway`.
fn names_a_pod(gateway: &Gateway, pods: &[Pod]) -> bool {
    match gateway {
        Gateway::Hostname { namespace, hostname, .. } => pods
            .iter()
            .any(|pod| pod.namespace == *namespace && pod.announce.hostname.as_ref() == Some(hostname)),
        Gateway::Address { .. } => false,
    }
}

#[cfg(test)]
mod tests;
