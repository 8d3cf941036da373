//! The demo's mesh while it is up, and the parts that its pods play.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::lab::{
    apps::{AppError, Route, http},
    control::{
        ca::{CaOptions, Issued},
        mesh_file::{Mesh, Pod},
    },
    embedded::Embedded,
    net::Namespace,
    node::Node,
    testbed::{Launch, Options, Testbed, TestbedError},
    topology::Topology,
};

/// The mesh file.
pub(super) const MESH: &str = include_str!("mesh.yaml");

/// The time limit for anything that is expected to happen at once. The limit is generous, because the machine may be
/// busy.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// A certificate's life. It is so short that renewals, at half of it, happen during the demo.
pub(super) const CERTIFICATE_LIFE: Duration = Duration::from_secs(8);
/// The time after which an unused tunnel is closed. It is so short that new tunnels, with new certificates, appear
/// during the demo.
const TUNNEL_RELEASE: &str = "500ms";

/// The port of the servers' web server.
pub(super) const WEB: u16 = 8080;
/// The port of the servers' echo server.
pub(super) const ECHO: u16 = 9000;

/// The marker in every answer of the web servers.
pub(super) const MARKER: &str = "plaintext-marker-5f1e";

/// The pods of the demo, by their parts.
#[derive(Debug)]
pub(super) struct DemoPods {
    pub(super) client: DemoPod,
    pub(super) intruder: DemoPod,
    pub(super) stranger: DemoPod,
    pub(super) servers: [DemoPod; 2],
    /// The service in front of the servers.
    pub(super) service: SocketAddr,
    nodes: Vec<(String, IpAddr)>,
}

/// One pod.
#[derive(Clone, Debug)]
pub(super) struct DemoPod {
    /// The pod's name without its Kubernetes namespace.
    pub(super) name: String,
    /// The pod's name as `namespace/name`.
    pub(super) full_name: String,
    /// The pod's address.
    pub(super) ip: IpAddr,
    /// The pod's SPIFFE id.
    pub(super) identity: String,
    /// The id under which the node's proxy knows the pod.
    pub(super) uid: String,
    node: String,
    captured: bool,
}

/// The mesh and its parts.
#[derive(Debug)]
pub(super) struct DemoMesh {
    pub(super) testbed: Testbed<Embedded>,
    pub(super) mesh: Mesh,
    pub(super) cast: DemoPods,
    /// The node of the clients.
    pub(super) one: Node,
    /// The node of the servers.
    pub(super) two: Node,
}

/// The error of a mesh that differs from the one the demo's code knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the demo's mesh has no {0}")]
pub(super) struct MissingPod(&'static str);

/// The error of a mesh that could not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoMeshError {
    /// The mesh is not the demo's.
    #[error(transparent)]
    MissingPod(#[from] MissingPod),
    /// The mesh could not be raised.
    #[error(transparent)]
    Testbed(#[from] TestbedError),
}

// === impl DemoPods ===

impl DemoPods {
    fn of(mesh: &Mesh) -> Result<Self, MissingPod> {
        let player = |name| mesh.pod(name).and_then(DemoPod::of).ok_or(MissingPod(name));
        let service = mesh.services.first().and_then(|service| {
            let port = *service.ports.keys().next()?;
            Some(SocketAddr::new(service.vips.first()?.addresses.addr(), port))
        });
        Ok(Self {
            client: player("front/client")?,
            intruder: player("front/intruder")?,
            stranger: player("front/stranger")?,
            servers: [player("shop/server-1")?, player("shop/server-2")?],
            service: service.ok_or(MissingPod("service"))?,
            nodes: mesh.nodes.iter().map(|(name, ip)| (name.clone(), *ip)).collect(),
        })
    }

    /// The pods of each node, one line per node.
    pub(super) fn lines(&self) -> Vec<String> {
        let all = [&self.client, &self.intruder, &self.stranger].into_iter().chain(&self.servers);
        let all: Vec<&DemoPod> = all.collect();
        let mut lines = Vec::new();
        for (node, ip) in &self.nodes {
            let here = all.iter().filter(|player| player.node == *node);
            let here: Vec<String> = here.map(|player| player.label()).collect();
            lines.push(format!("node {node} {ip}: {}", here.join(", ")));
        }
        lines.push(format!("service shop/server {} in front of the two servers", self.service));
        lines
    }
}

// === impl DemoPod ===

impl DemoPod {
    fn of(pod: &Pod) -> Option<Self> {
        Some(Self {
            name: pod.name.clone(),
            full_name: format!("{}/{}", pod.namespace, pod.name),
            ip: *pod.ips.first()?,
            identity: pod.spiffe_id(),
            uid: pod.kubernetes_uid(),
            node: pod.node.clone(),
            captured: pod.captured,
        })
    }

    /// The socket address of one of the pod's ports.
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    fn label(&self) -> String {
        let note = if self.captured { "" } else { " (outside the mesh)" };
        format!("{} {}{note}", self.full_name, self.ip)
    }
}

// === impl DemoMesh ===

impl DemoMesh {
    /// Raises `mesh` with `binary` as the proxies, as the lab called `id`, with its files in `directory`.
    pub(super) fn raise(
        id: &str,
        directory: &Path,
        mesh: Mesh,
        binary: PathBuf,
    ) -> Result<Self, DemoMeshError> {
        let cast = DemoPods::of(&mesh)?;
        let launch = Launch::new(binary)
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", "info")
            .env("WARREN_CHAOS", "true")
            .env("POOL_UNUSED_RELEASE_TIMEOUT", TUNNEL_RELEASE);
        let options = Options {
            id: id.to_owned(),
            directory: directory.to_owned(),
            proxy: Some(launch),
            ready_limit: 4 * SOON,
        };
        let ca = CaOptions { ttl: Some(CERTIFICATE_LIFE), ..CaOptions::default() };
        let topology = Topology::of(&mesh, false).map_err(TestbedError::from)?;
        let testbed = Testbed::raise(topology, Embedded::new(mesh.clone()).ca(ca), options)?;
        let node = |name: &'static str| -> Result<Node, TestbedError> {
            Ok(Node::new(name, testbed.node(name)?, directory.join(format!("proxy-{name}.log"))))
        };
        let (one, two) = (node("one")?, node("two")?);
        Ok(Self { testbed, mesh, cast, one, two })
    }

    /// The namespace in which a pod's programs run.
    pub(super) fn namespace(&self, player: &DemoPod) -> Result<Namespace, String> {
        self.testbed.pod(&player.full_name).cloned().map_err(text)
    }

    /// The route from a pod to an address.
    pub(super) fn route(&self, from: &DemoPod, to: SocketAddr) -> Result<Route, String> {
        Ok(Route::new(&self.namespace(from)?, to))
    }

    /// Sends one request with the marker in it, on its own connection.
    pub(super) fn get(
        &self,
        from: &DemoPod,
        to: SocketAddr,
    ) -> Result<Result<http::Answer, AppError>, String> {
        Ok(http::get(&self.route(from, to)?, MARKER, SOON))
    }

    /// Sends one request, which must be answered.
    pub(super) fn got(&self, from: &DemoPod, to: SocketAddr) -> Result<http::Answer, String> {
        self.get(from, to)?.map_err(text)
    }

    /// Makes the control plane serve `mesh`; returns at once.
    pub(super) fn serve(&mut self, mesh: Mesh) -> Result<(), String> {
        self.testbed.services().update(mesh).map_err(text)
    }

    /// Waits until both proxies have taken in the served mesh.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.testbed.services().settle(SOON).map_err(text)
    }

    /// The certificates issued so far.
    pub(super) fn issued(&mut self) -> Result<Vec<Issued>, String> {
        Ok(self.testbed.services().control().map_err(text)?.authority().issued())
    }

    /// The number of discovery streams that the proxies have opened so far.
    pub(super) fn discovery_streams(&mut self) -> Result<u64, String> {
        Ok(self.testbed.services().control().map_err(text)?.seen().borrow().streams)
    }
}

/// The text of an error.
pub(super) fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
