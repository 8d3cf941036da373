//! A whole mesh on this machine: hosts, their applications, a control plane, and a CNI and a proxy for each node.
//! Everything ends when the value is dropped, or with the cell when this process is killed.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use super::{
    apps::{AppError, Background},
    hosts::{HostError, Hosts, Role},
    net::{Namespace, cell},
    process::{Process, ProcessError},
    topology::{HostPlan, PodPlan, Topology, TopologyError},
};

mod proxy;
mod services;

pub use self::proxy::{Launch, READINESS_PORT, readiness};
pub use self::services::{Access, ServiceError, Services};

/// How long a proxy may take to exit by itself.
const LEAVE: Duration = Duration::from_secs(5);

/// The options of a testbed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Part of the namespaces' names: `warren-ID-pod-...`.
    pub id: String,
    /// The directory of logs, sockets and certificates. It must exist, and its path must be short enough for a
    /// socket's.
    pub directory: PathBuf,
    /// The proxy of every node; `None` starts none.
    pub proxy: Option<Launch>,
    /// How long a proxy may take to become ready.
    pub ready_limit: Duration,
}

/// A running mesh.
#[derive(Debug)]
pub struct Testbed<S: Services> {
    options: Options,
    topology: Topology,
    // Fields are dropped in this order: each user of a thing is dropped before the thing.
    proxies: BTreeMap<String, Process>,
    services: S,
    apps: BTreeMap<(Role, String), Vec<Background<u64>>>,
    hosts: Hosts,
    access: Access,
}

/// The error of a testbed that could not be raised or changed.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// This process is not in a cell, so it could be killed without its testbed.
    #[error("this process is not the first one of a cell: call lab::net::cell::enter first")]
    NotInCell,
    /// A host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An application failed.
    #[error(transparent)]
    App(#[from] AppError),
    /// A proxy failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The control plane or a CNI failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The mesh file is wrong.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// A pod names a node that does not exist.
    #[error("pod {pod} is on node {node}, which does not exist")]
    NoNode {
        /// The pod.
        pod: String,
        /// The node.
        node: String,
    },
    /// No proxy runs on that node.
    #[error("no proxy of node {0} has been started")]
    NoProxy(String),
}

// === impl Testbed ===

impl<S: Services> Testbed<S> {
    /// Raises the testbed and waits until every proxy is ready. Errors: the first failure; everything that was
    /// started before it is ended.
    pub fn raise(topology: Topology, mut services: S, options: Options) -> Result<Self, TestbedError> {
        if !cell::is_inside() {
            return Err(TestbedError::NotInCell);
        }
        let mut hosts = Hosts::new(&options.id)?;
        let control = hosts.add(Role::Control, "control", &[topology.control])?;
        let access = services.start_control(control, &options.directory)?;
        let (proxies, apps) = (BTreeMap::new(), BTreeMap::new());
        let planned = topology.clone();
        let topology = Topology { nodes: Vec::new(), pods: Vec::new(), outside: Vec::new(), ..topology };
        let mut testbed = Self { options, topology, proxies, services, apps, hosts, access };
        for node in planned.nodes {
            testbed.add_node(node)?;
        }
        for host in planned.outside {
            testbed.add_outside(host)?;
        }
        for pod in planned.pods {
            testbed.add_pod(pod)?;
        }
        testbed.start_proxies()?;
        Ok(testbed)
    }

    /// The hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The hosts, for disconnecting or redirecting them.
    pub fn hosts_mut(&mut self) -> &mut Hosts {
        &mut self.hosts
    }

    /// The current topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The control plane and the CNIs.
    pub fn services(&mut self) -> &mut S {
        &mut self.services
    }

    /// The directory of logs, sockets and certificates.
    pub fn directory(&self) -> &Path {
        &self.options.directory
    }

    /// The namespace of a pod, by its `namespace/name`; a pod in the namespace `default` is also found by its name.
    pub fn pod(&self, name: &str) -> Result<&Namespace, TestbedError> {
        let full = if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
        Ok(self.hosts.find(Role::Pod, &full)?.namespace())
    }

    /// The namespace of a node.
    pub fn node(&self, name: &str) -> Result<&Namespace, TestbedError> {
        Ok(self.hosts.find(Role::Node, name)?.namespace())
    }

    /// The namespace of a host outside the mesh.
    pub fn outside(&self, name: &str) -> Result<&Namespace, TestbedError> {
        Ok(self.hosts.find(Role::Outside, name)?.namespace())
    }

    /// Adds a node and its CNI; its proxy is started by [`Self::start_proxies`].
    pub fn add_node(&mut self, plan: HostPlan) -> Result<(), TestbedError> {
        let host = self.hosts.add(Role::Node, &plan.name, &plan.ips)?;
        let socket = proxy::socket(&self.options.directory, &plan.name);
        self.services.start_cni(host, &socket)?;
        self.start_apps(Role::Node, &plan)?;
        self.topology.nodes.push(plan);
        Ok(())
    }

    /// Adds a host outside the mesh.
    pub fn add_outside(&mut self, plan: HostPlan) -> Result<(), TestbedError> {
        self.hosts.add(Role::Outside, &plan.name, &plan.ips)?;
        self.start_apps(Role::Outside, &plan)?;
        self.topology.outside.push(plan);
        Ok(())
    }

    /// Adds a pod. A pod of the mesh gets its rules, is handed to its node's proxy, and then starts its applications,
    /// as in a cluster. If the proxy refuses the pod, the call returns the error and the pod stays.
    pub fn add_pod(&mut self, plan: PodPlan) -> Result<(), TestbedError> {
        let (name, node) = (&plan.host.name, &plan.node);
        if !self.topology.nodes.iter().any(|known| known.name == *node) {
            return Err(TestbedError::NoNode { pod: name.clone(), node: node.clone() });
        }
        self.hosts.add(Role::Pod, name, &plan.host.ips)?;
        if let Some(redirection) = &plan.redirection {
            self.hosts.redirect(Role::Pod, name, redirection.clone())?;
        }
        let host = self.hosts.find(Role::Pod, name)?;
        let taken = plan.redirection.as_ref().map_or(Ok(()), |_| self.services.add_pod(&plan, host));
        self.start_apps(Role::Pod, &plan.host)?;
        self.topology.pods.push(plan);
        Ok(taken?)
    }

    /// Ends a pod: its applications, its entry in its node's proxy, and its network.
    pub fn remove_pod(&mut self, name: &str) -> Result<(), TestbedError> {
        let at = self.topology.pods.iter().position(|pod| pod.host.name == name);
        self.hosts.find(Role::Pod, name)?;
        self.apps.remove(&(Role::Pod, name.to_owned()));
        if let Some(plan) = at.map(|at| self.topology.pods.remove(at))
            && plan.redirection.is_some()
        {
            self.services.remove_pod(&plan)?;
        }
        Ok(self.hosts.remove(Role::Pod, name)?)
    }

    /// Ends a host outside the mesh.
    pub fn remove_outside(&mut self, name: &str) -> Result<(), TestbedError> {
        self.hosts.remove(Role::Outside, name)?;
        self.apps.remove(&(Role::Outside, name.to_owned()));
        self.topology.outside.retain(|host| host.name != name);
        Ok(())
    }

    /// Replaces the pods and outside hosts by those of `wanted`: ends hosts that are missing there or differ, and
    /// adds the new ones. Nodes and the control plane stay as they are. Returns the names of the hosts that were
    /// ended and added.
    pub fn apply(&mut self, wanted: &Topology) -> Result<Vec<String>, TestbedError> {
        let mut changed = Vec::new();
        let old: Vec<PodPlan> =
            self.topology.pods.iter().filter(|pod| !wanted.pods.contains(pod)).cloned().collect();
        for pod in old {
            self.remove_pod(&pod.host.name)?;
            changed.push(format!("-pod:{}", pod.host.name));
        }
        let known = |host: &&HostPlan| !wanted.outside.contains(host);
        let old: Vec<String> =
            self.topology.outside.iter().filter(known).map(|host| host.name.clone()).collect();
        for name in old {
            self.remove_outside(&name)?;
            changed.push(format!("-outside:{name}"));
        }
        for host in &wanted.outside {
            if !self.topology.outside.contains(host) {
                self.add_outside(host.clone())?;
                changed.push(format!("+outside:{}", host.name));
            }
        }
        for pod in &wanted.pods {
            if !self.topology.pods.contains(pod) {
                self.add_pod(pod.clone())?;
                changed.push(format!("+pod:{}", pod.host.name));
            }
        }
        Ok(changed)
    }

    /// Stops a host's applications; its network stays.
    pub fn stop_apps(&mut self, role: Role, name: &str) {
        self.apps.remove(&(role, name.to_owned()));
    }

    /// Starts a proxy on every node without one, and waits until these proxies are ready.
    pub fn start_proxies(&mut self) -> Result<(), TestbedError> {
        let Some(launch) = self.options.proxy.clone() else { return Ok(()) };
        let idle = self.topology.nodes.iter().filter(|node| !self.proxies.contains_key(&node.name));
        let idle: Vec<String> = idle.map(|node| node.name.clone()).collect();
        for node in &idle {
            let process = self.launch(node, &launch)?;
            self.proxies.insert(node.clone(), process);
        }
        idle.iter().try_for_each(|node| self.wait_ready(node))
    }

    /// Starts a proxy of `node` that the caller owns, such as a second one during an upgrade. The proxy may not be
    /// ready yet.
    pub fn launch(&self, node: &str, launch: &Launch) -> Result<Process, TestbedError> {
        let host = self.hosts.find(Role::Node, node)?;
        let network = self.topology.networks.get(node).map_or("", String::as_str);
        let program = launch.program((host, network), &self.access, &self.options.directory);
        Ok(program.start(host.namespace())?)
    }

    /// Waits until `process`, a proxy of `node`, reports that it is ready.
    pub fn wait_ready_of(&self, node: &str, process: &mut Process) -> Result<(), TestbedError> {
        let namespace = self.node(node)?;
        let ready = || proxy::is_ready(namespace);
        Ok(process.wait_until("become ready", self.options.ready_limit, ready)?)
    }

    /// The proxy of a node.
    pub fn proxy(&mut self, node: &str) -> Result<&mut Process, TestbedError> {
        self.proxies.get_mut(node).ok_or_else(|| TestbedError::NoProxy(node.to_owned()))
    }

    /// Takes a node's proxy out of the testbed, so that the caller watches or ends it. [`Self::start_proxies`] then
    /// starts another proxy.
    pub fn take_proxy(&mut self, node: &str) -> Result<Process, TestbedError> {
        self.proxies.remove(node).ok_or_else(|| TestbedError::NoProxy(node.to_owned()))
    }

    /// All proxies, by node.
    pub fn proxies(&self) -> impl Iterator<Item = (&str, &Process)> {
        self.proxies.iter().map(|(node, process)| (node.as_str(), process))
    }

    /// The proxies that have ended since the last call, and their exit statuses.
    pub fn ended_proxies(&mut self) -> Result<Vec<(String, ExitStatus)>, TestbedError> {
        let mut ended = Vec::new();
        for (node, process) in &mut self.proxies {
            ended.extend(process.status()?.map(|status| (node.clone(), status)));
        }
        for (node, _) in &ended {
            self.proxies.remove(node);
        }
        Ok(ended)
    }

    /// Ends the proxies as kubelet does, with SIGTERM and a time limit, and then everything else.
    pub fn lower(mut self) -> Result<(), TestbedError> {
        for process in self.proxies.values_mut() {
            process.signal(libc::SIGTERM)?;
        }
        for process in self.proxies.values_mut() {
            if let Err(error) = process.wait(LEAVE) {
                tracing::warn!(%error, "killing a proxy that does not leave");
            }
        }
        Ok(())
    }

    fn wait_ready(&mut self, node: &str) -> Result<(), TestbedError> {
        match self.proxies.entry(node.to_owned()) {
            Entry::Occupied(mut process) => {
                let namespace = self.hosts.find(Role::Node, node)?.namespace();
                let limit = self.options.ready_limit;
                Ok(process.get_mut().wait_until("become ready", limit, || proxy::is_ready(namespace))?)
            }
            Entry::Vacant(_) => Err(TestbedError::NoProxy(node.to_owned())),
        }
    }

    fn start_apps(&mut self, role: Role, plan: &HostPlan) -> Result<(), TestbedError> {
        let host = self.hosts.find(role, &plan.name)?;
        let short = plan.name.rsplit_once('/').map_or(plan.name.as_str(), |(_, name)| name);
        let mut started = Vec::new();
        for app in &plan.apps {
            started.push(match app.is_gateway() {
                true => self.services.start_gateway(host, app.port())?,
                false => app.start(host.namespace(), short)?,
            });
        }
        self.apps.insert((role, plan.name.clone()), started);
        Ok(())
    }
}
