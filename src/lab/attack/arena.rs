//! The mesh under attack, and whom it has: a victim, the attackers' targets, and the attackers.

use std::{
    env,
    error::Error,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::script::Door;
use crate::{
    lab::{
        apps::{Route, http},
        cni::Cni,
        control::mesh_file::Mesh,
        embedded::Embedded,
        net::Namespace,
        node::{Node, wait},
        testbed::{Launch, Options, Testbed},
        valve::Valve,
    },
    protocols::{
        ca::{chain::Chain, csr},
        config::TlsConfig,
        identity::Identity,
        tls::WorkloadCert,
    },
};

const MESH: &str = include_str!("mesh.yaml");
/// The node whose proxy is attacked.
pub(super) const ATTACKED: &str = "two";
/// The port of the pods' web servers.
pub(super) const WEB: u16 = 8080;
/// The port of the pods' echoes.
pub(super) const ECHO: u16 = 9000;
/// The port of the target's application that reads nothing.
pub(super) const MUTE: u16 = 9100;
const HBONE: u16 = 15008;

/// The name servers that proxies ask; nobody is there.
const RESOLV_CONF: &str = "nameserver 10.77.3.9\noptions timeout:1 attempts:1\n";
/// The time limit for the mesh to come up.
const UP: Duration = Duration::from_secs(30);
/// The time limit for one request of the victim's client.
const SOON: Duration = Duration::from_secs(5);
/// How long the attackers' certificate lives.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// The mesh under attack.
pub(super) struct Arena {
    /// The hosts, proxies and services of the mesh.
    pub(super) testbed: Testbed<Embedded>,
    mesh: Mesh,
    peer: Arc<WorkloadCert>,
    /// The CNI's agent of the attacked node.
    pub(super) agent: Arc<Cni>,
    /// What reads the proxies' logs.
    pub(super) log: Valve,
}

impl Arena {
    /// Raises the mesh with `program` as the proxies, as the lab called `id`, with its files in `directory`.
    pub(super) fn raise(id: &str, directory: &Path, program: &Path) -> Result<Self, Box<dyn Error>> {
        let mesh = Mesh::parse(MESH)?;
        let resolv_conf = directory.join("resolv.conf");
        fs::write(&resolv_conf, RESOLV_CONF)?;
        let log = Valve::default();
        let launch = Launch::new(program)
            .valve(log.clone())
            // The victim is on the shard of its attacker.
            .env("ZTUNNEL_WORKER_THREADS", "1")
            .env("WARREN_RESOLV_CONF", resolv_conf.to_string_lossy());
        let options = Options {
            id: id.to_owned(),
            directory: directory.to_owned(),
            proxy: Some(launch),
            ready_limit: UP,
        };
        let mut testbed = Testbed::up(mesh.clone(), true, options)?;
        let identity: Identity = "spiffe://cluster.local/ns/default/sa/rogue".parse()?;
        let request = csr::request(&identity)?;
        let authority = testbed.services().control()?.authority().clone();
        let chain = Chain::parse(&authority.sign(&request.pem, None, LIFE)?, Some(&identity))?;
        let peer = Arc::new(WorkloadCert::new(chain, &request.key, &TlsConfig::default())?);
        let agent = testbed.services().cni(ATTACKED)?.clone();
        let arena = Self { testbed, mesh, peer, agent, log };
        wait(UP, || arena.serves())?;
        Ok(arena)
    }

    /// The program that runs this one, for the proxies.
    pub(super) fn program() -> std::io::Result<std::path::PathBuf> {
        env::current_exe()
    }

    /// Sends one request of the victim's client, which must be answered soon.
    pub(super) fn serves(&self) -> Result<(), String> {
        let route = self.route("client", "victim", WEB)?;
        match http::get(&route, "victim", SOON).map_err(|error| error.to_string())?.status {
            200 => Ok(()),
            status => Err(format!("the victim answers {status}")),
        }
    }

    /// The attacked node.
    pub(super) fn node(&self) -> Result<Node, String> {
        let log = self.testbed.directory().join(format!("proxy-{ATTACKED}.log"));
        Ok(Node::new(ATTACKED, self.node_namespace()?, log))
    }

    /// The namespace of the attacked node.
    pub(super) fn node_namespace(&self) -> Result<&Namespace, String> {
        self.testbed.node(ATTACKED).map_err(|error| error.to_string())
    }

    /// The address of the attacked node.
    pub(super) fn node_ip(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, 2).into()
    }

    /// The namespace of a pod.
    pub(super) fn pod(&self, name: &str) -> Result<&Namespace, String> {
        self.testbed.pod(name).map_err(|error| error.to_string())
    }

    /// The address of a pod.
    pub(super) fn ip(&self, name: &str) -> Result<IpAddr, String> {
        let pod = self.mesh.pod(name).and_then(|pod| pod.ips.first());
        pod.copied().ok_or_else(|| format!("the mesh has no pod {name} with an address"))
    }

    /// A port of a pod.
    pub(super) fn at(&self, pod: &str, port: u16) -> Result<SocketAddr, String> {
        Ok((self.ip(pod)?, port).into())
    }

    /// The route from one pod to a port of another.
    pub(super) fn route(&self, from: &str, to: &str, port: u16) -> Result<Route, String> {
        Ok(Route::new(self.pod(from)?, self.at(to, port)?))
    }

    /// The HBONE listener of a pod, as a peer with a certificate of the mesh knocks at it.
    pub(super) fn door(&self, pod: &str) -> Result<Door, String> {
        let server = format!("spiffe://cluster.local/ns/default/sa/{pod}");
        let server = server.parse::<Identity>().map_err(|error| format!("{server}: {error}"))?;
        Ok(Door { to: self.at(pod, HBONE)?, tls: self.peer.client_config(&[server]) })
    }
}
