//! What a mesh file describes, checked.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    gateway::Gateway,
    raw::{Action, Announce, LoadBalancing, Protocol, Scope, Visibility},
};
use crate::lab::control::hash::hash;

/// A mesh, checked: every name that is referred to exists, and every host has an address of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// The address of each node.
    pub nodes: BTreeMap<String, IpAddr>,
    /// In the order of the file.
    pub pods: Vec<Pod>,
    /// Hosts the mesh knows nothing of.
    pub outside: Vec<Outside>,
    /// In the order of the file.
    pub services: Vec<Service>,
    /// In the order of the file.
    pub policies: Vec<Policy>,
    /// Namespaces whose pods take no plaintext.
    pub strict: Vec<String>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Unique in its namespace.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The node it runs on, one of [`Mesh::nodes`].
    pub node: String,
    /// At least one, unique in the mesh.
    pub ips: Vec<IpAddr>,
    /// What services and policies select it by; its name unless said.
    pub app: String,
    /// Shown in telemetry.
    pub version: String,
    /// Whether its traffic is redirected to the node's proxy.
    pub captured: bool,
    /// The applications it runs, in the lab's own words.
    pub run: Vec<String>,
    /// How other proxies reach it.
    pub protocol: Protocol,
    /// The waypoint that traffic to it goes through.
    pub waypoint: Option<Gateway>,
    /// What else the control plane says of it.
    pub announce: Announce,
}

/// A host outside the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Outside {
    /// Unique among outside hosts.
    pub name: String,
    /// At least one, unique in the mesh.
    pub ips: Vec<IpAddr>,
    /// The applications it runs, in the lab's own words.
    pub run: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The Kubernetes name.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// Fully qualified.
    pub hostname: String,
    /// None for a headless service.
    pub vips: Vec<Vip>,
    /// Service port to target port.
    pub ports: BTreeMap<u16, u16>,
    /// Its endpoints, as indexes into [`Mesh::pods`], ascending.
    pub endpoints: Vec<usize>,
    /// The waypoint that traffic to it goes through.
    pub waypoint: Option<Gateway>,
    /// SPIFFE ids accepted besides the endpoints' own.
    pub subject_alt_names: Vec<String>,
    /// How endpoints are chosen.
    pub load_balancing: Option<LoadBalancing>,
    /// Wins ties between namespaces.
    pub canonical: bool,
    /// Who sees it.
    pub visibility: Visibility,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The network it is valid in; empty is the default one.
    pub network: String,
    /// One address, or many.
    pub addresses: IpNet,
}

/// One authorization policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Unique in its namespace.
    pub name: String,
    /// The namespace it is of.
    pub namespace: String,
    /// What it applies to.
    pub scope: Scope,
    /// What it does when a rule matches.
    pub action: Action,
    /// Evaluated and logged, never enforced.
    pub dry_run: bool,
    /// The pods it is bound to, as indexes into [`Mesh::pods`], for [`Scope::Workload`].
    pub pods: Vec<usize>,
    /// Any may match.
    pub rules: Vec<Rule>,
}

/// Both sides must match; a side that says nothing matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Any may match.
    pub from: Vec<Source>,
    /// Any may match.
    pub to: Vec<Target>,
}

/// Who connects: all that is said must hold, any value of a list will do, and none of a `not` list may.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// Namespaces; `*` at either end stands for anything, alone for any that is not empty.
    pub namespaces: Listed<String>,
    /// `trust-domain/ns/namespace/sa/account`, with `*` as above.
    pub principals: Listed<String>,
    /// `namespace/account`, in any trust domain.
    pub service_accounts: Listed<(String, String)>,
    /// Addresses.
    pub ip_blocks: Listed<IpNet>,
}

/// What is connected to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Ports of the pod.
    pub ports: Listed<u16>,
    /// Addresses of the pod.
    pub ip_blocks: Listed<IpNet>,
}

/// Values of which one must be met, and values of which none may.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// One of these, if there are any.
    pub any: Vec<T>,
    /// None of these.
    pub none: Vec<T>,
}

// === impl Mesh ===

impl Mesh {
    /// The pod of that name, where it is unique, or of that `namespace/name`.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        let index = find_pod(&self.pods, name, None)?;
        self.pods.get(index)
    }

    /// The pods of a node.
    pub fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| pod.node == node)
    }
}

// === impl Pod ===

impl Pod {
    /// The name by which the control plane knows it (docs/spec/protos.md 1).
    pub fn workload_uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace, self.name)
    }

    /// The uid by which istio-cni knows it: made of its name, in the form of Kubernetes' own.
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

    /// Its identity, `spiffe://` and all.
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

/// The index of the pod called `namespace/name`, or `name` in the `home` namespace, or `name` anywhere if it is the
/// only one.
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
