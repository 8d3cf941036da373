//! The hosts of a lab, and the applications that run on them.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    apps::run::{App, NoApp},
    control::mesh_file::{CONTROL_IP, Mesh, Pod},
    net::redirect::Redirection,
};

/// A host and its applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// The host's name, unique in its role; the name of a pod is `namespace/name`.
    pub name: String,
    /// The host's addresses, unique in the lab.
    pub ips: Vec<IpAddr>,
    /// The host's applications.
    pub apps: Vec<App>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlan {
    /// The pod's host.
    pub host: HostPlan,
    /// The pod's node.
    pub node: String,
    /// The uid by which the CNI knows the pod.
    pub uid: String,
    /// The pod's Kubernetes name.
    pub name: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// The redirection of the pod's traffic; `None` leaves the pod out of the mesh.
    pub redirection: Option<Redirection>,
}

/// All hosts of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The control plane's address.
    pub control: IpAddr,
    /// Nodes.
    pub nodes: Vec<HostPlan>,
    /// The networks of the nodes whose network has a name.
    pub networks: BTreeMap<String, String>,
    /// Pods.
    pub pods: Vec<PodPlan>,
    /// Hosts outside the mesh.
    pub outside: Vec<HostPlan>,
}

/// The error of a host whose `run` names no application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} cannot run this: {source}")]
pub struct TopologyError {
    /// The host.
    pub host: String,
    /// The words that name no application.
    pub source: NoApp,
}

// === impl HostPlan ===

impl HostPlan {
    /// A host without applications.
    pub fn new(name: impl Into<String>, ips: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { name: name.into(), ips: ips.into_iter().collect(), apps: Vec::new() }
    }

    fn running(name: &str, ips: &[IpAddr], run: &[String]) -> Result<Self, TopologyError> {
        let apps = run.iter().map(|words| words.parse()).collect::<Result<_, _>>();
        let apps = apps.map_err(|source| TopologyError { host: name.to_owned(), source })?;
        Ok(Self { name: name.to_owned(), ips: ips.to_vec(), apps })
    }
}

// === impl PodPlan ===

impl PodPlan {
    /// A pod of the mesh in the namespace `default`, with a service account of its own name.
    pub fn new(name: &str, node: &str, ip: IpAddr) -> Self {
        Self {
            host: HostPlan::new(format!("default/{name}"), [ip]),
            node: node.to_owned(),
            uid: format!("uid-{name}"),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: name.to_owned(),
            redirection: Some(Redirection::default()),
        }
    }
}

impl PodPlan {
    fn of(pod: &Pod, dns: bool) -> Result<Self, TopologyError> {
        let full_name = format!("{}/{}", pod.namespace, pod.name);
        Ok(Self {
            host: HostPlan::running(&full_name, &pod.ips, &pod.run)?,
            node: pod.node.clone(),
            uid: pod.kubernetes_uid(),
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.service_account.clone(),
            redirection: pod.captured.then(|| Redirection { dns, ..Redirection::default() }),
        })
    }
}

// === impl Topology ===

impl Topology {
    /// A topology without hosts, whose control plane is at 10.77.0.254.
    pub fn new() -> Self {
        Self {
            control: CONTROL_IP,
            nodes: Vec::new(),
            networks: BTreeMap::new(),
            pods: Vec::new(),
            outside: Vec::new(),
        }
    }

    /// The hosts of `mesh`; `dns` redirects the DNS of its pods too.
    pub fn of(mesh: &Mesh, dns: bool) -> Result<Self, TopologyError> {
        let nodes = mesh.nodes.iter().map(|(name, ip)| HostPlan::new(name, [*ip])).collect();
        let pods = mesh.pods.iter().map(|pod| PodPlan::of(pod, dns)).collect::<Result<_, _>>()?;
        let outside = mesh.outside.iter().map(|host| HostPlan::running(&host.name, &host.ips, &host.run));
        let network = |name: &String| (name.clone(), mesh.network_of(name).to_owned());
        let networks = mesh.nodes.keys().map(network).filter(|(_, network)| !network.is_empty()).collect();
        Ok(Self { control: CONTROL_IP, nodes, networks, pods, outside: outside.collect::<Result<_, _>>()? })
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}
