//! The checked contents of a mesh file.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    gateway::Gateway,
    raw::{Action, Announce, LoadBalancing, Protocol, Scope, Visibility},
};
use crate::lab::control::hash::hash;

/// A checked mesh: every name that the file refers to exists, and every host has its own address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// The address of each node.
    pub nodes: BTreeMap<String, IpAddr>,
    /// The networks that have names, in the order of the file.
    pub networks: Vec<Network>,
    /// The pods in the order of the file.
    pub pods: Vec<Pod>,
    /// The hosts that are not part of the mesh.
    pub outside: Vec<Outside>,
    /// The services in the order of the file.
    pub services: Vec<Service>,
    /// The policies in the order of the file.
    pub policies: Vec<Policy>,
    /// The namespaces whose pods refuse plaintext.
    pub strict: Vec<String>,
}

/// A network that has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The name, unique in the mesh.
    pub name: String,
    /// The nodes on the network.
    pub nodes: Vec<String>,
    /// The gateway by which other networks reach the network.
    pub gateway: Option<Gateway>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// The pod's name, unique in its namespace.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod's node, one of [`Mesh::nodes`].
    pub node: String,
    /// The pod's addresses: at least one, unique in the mesh.
    pub ips: Vec<IpAddr>,
    /// The label by which services and policies select the pod; by default the pod's name.
    pub app: String,
    /// The version shown in telemetry.
    pub version: String,
    /// Whether the pod's traffic is redirected to the node's proxy.
    pub captured: bool,
    /// The applications that the pod runs, in the lab's own words.
    pub run: Vec<String>,
    /// How other proxies reach the pod.
    pub protocol: Protocol,
    /// The waypoint for traffic to the pod.
    pub waypoint: Option<Gateway>,
    /// Further properties that the control plane announces for the pod.
    pub announce: Announce,
}

/// A host outside the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Outside {
    /// The host's name, unique among outside hosts.
    pub name: String,
    /// The host's addresses: at least one, unique in the mesh.
    pub ips: Vec<IpAddr>,
    /// The applications that the host runs, in the lab's own words.
    pub run: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The Kubernetes name.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The fully qualified hostname.
    pub hostname: String,
    /// The virtual addresses; a headless service has none.
    pub vips: Vec<Vip>,
    /// The target port of each service port.
    pub ports: BTreeMap<u16, u16>,
    /// The service's endpoints, as indexes into [`Mesh::pods`], ascending.
    pub endpoints: Vec<usize>,
    /// The waypoint for traffic to the service.
    pub waypoint: Option<Gateway>,
    /// Waypoints and their weights. A connection goes to one of these, if there are any.
    pub weighted_waypoints: Vec<(Gateway, u32)>,
    /// The SPIFFE ids accepted besides the endpoints' own.
    pub subject_alt_names: Vec<String>,
    /// How endpoints are chosen.
    pub load_balancing: Option<LoadBalancing>,
    /// Whether the service wins ties between namespaces.
    pub canonical: bool,
    /// The clients that see the service.
    pub visibility: Visibility,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The network in which the address is valid; empty is the default network.
    pub network: String,
    /// One address, or a range of addresses.
    pub addresses: IpNet,
}

/// One authorization policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The policy's name, unique in its namespace.
    pub name: String,
    /// The policy's namespace.
    pub namespace: String,
    /// The pods that the policy applies to.
    pub scope: Scope,
    /// The action of the policy when a rule matches.
    pub action: Action,
    /// Whether the policy is only evaluated and logged, never enforced.
    pub dry_run: bool,
    /// The pods that the policy is bound to, as indexes into [`Mesh::pods`], for [`Scope::Workload`].
    pub pods: Vec<usize>,
    /// The rules, of which any may match.
    pub rules: Vec<Rule>,
}

/// A rule matches if both sides match; a side without conditions matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// The sources, of which any may match.
    pub from: Vec<Source>,
    /// The targets, of which any may match.
    pub to: Vec<Target>,
}

/// The conditions on a client. Every condition must hold: one value of a list must match, and no value of a `not`
/// list may.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// The client's namespaces; `*` at either end matches any text, and `*` alone matches any non-empty text.
    pub namespaces: Listed<String>,
    /// The client's principals as `trust-domain/ns/namespace/sa/account`, with `*` as in `namespaces`.
    pub principals: Listed<String>,
    /// The client's accounts as `namespace/account`, in any trust domain.
    pub service_accounts: Listed<(String, String)>,
    /// The client's addresses.
    pub ip_blocks: Listed<IpNet>,
}

/// The conditions on the destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// The ports of the pod.
    pub ports: Listed<u16>,
    /// The addresses of the pod.
    pub ip_blocks: Listed<IpNet>,
}

/// A list of values of which one must match, and a list of values of which none may.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// One of these values must match, if the list is not empty.
    pub any: Vec<T>,
    /// None of these values may match.
    pub none: Vec<T>,
}

// === impl Mesh ===

impl Mesh {
    /// The pod of that name, if the name is unique, or of that `namespace/name`.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        let index = find_pod(&self.pods, name, None)?;
        self.pods.get(index)
    }

    /// The network of a node; empty for the network without a name.
    pub fn network_of(&self, node: &str) -> &str {
        let found = self.networks.iter().find(|network| network.nodes.iter().any(|on| on == node));
        found.map_or("", |network| &network.name)
    }

    /// The pods that a reference to a waypoint or gateway leads to: those of a service, or the pod of an address.
    pub fn pods_behind(&self, gateway: &Gateway) -> Vec<&Pod> {
        pods_behind(&self.pods, &self.services, gateway)
    }

    /// The pods of a node.
    pub fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| pod.node == node)
    }
}

// === impl Pod ===

impl Pod {
    /// The name by which the control plane knows the pod (docs/spec/protos.md 1).
    pub fn workload_uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace, self.name)
    }

    /// The uid by which istio-cni knows the pod: derived from the pod's name, in the form of Kubernetes' own.
    pub fn kubernetes_uid(&self) -> String {
        let high = hash(&[&self.namespace, &self.name, "uid", "high"]);
        let low = hash(&[&self.namespace, &self.name, "uid", "low"]);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// The pod's identity, including the prefix `spiffe://`.
    pub fn spiffe_id(&self) -> String {
        let trust_domain = self.announce.trust_domain.as_deref().unwrap_or("cluster.local");
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.service_account)
    }
}

// === impl Listed ===

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

/// The pods that a reference leads to; see [`Mesh::pods_behind`].
pub(super) fn pods_behind<'p>(pods: &'p [Pod], services: &[Service], gateway: &Gateway) -> Vec<&'p Pod> {
    let named = |service: &&Service| match gateway {
        Gateway::Hostname { namespace, hostname, .. } => {
            service.namespace == *namespace && service.hostname == *hostname
        }
        Gateway::Address { address, .. } => service.vips.iter().any(|vip| vip.addresses.addr() == *address),
    };
    match (services.iter().find(named), gateway) {
        (Some(service), _) => service.endpoints.iter().filter_map(|index| pods.get(*index)).collect(),
        (None, Gateway::Address { address, .. }) => {
            pods.iter().filter(|pod| pod.ips.contains(address)).collect()
        }
        (None, Gateway::Hostname { .. }) => Vec::new(),
    }
}

/// The index of the pod called `namespace/name`, or `name` in the `home` namespace. A bare `name` also finds a pod of
/// another namespace if it is the only one.
pub(super) fn find_pod(pods: &[Pod], name: &str, home: Option<&str>) -> Option<usize> {
    let (namespace, name) = name.split_once('/').map_or((None, name), |(ns, name)| (Some(ns), name));
    let mut named = pods.iter().enumerate().filter(|(_, pod)| pod.name == name);
    if let Some(namespace) = namespace {
        return named.find(|(_, pod)| pod.namespace == namespace).map(|(i, _)| i);
    }
    if let Some((i, _)) = named.clone().find(|(_, pod)| Some(pod.namespace.as_str()) == home) {
        return Some(i);
    }
    let (first, another) = (named.next(), named.next());
    if another.is_some() { None } else { first.map(|(i, _)| i) }
}
