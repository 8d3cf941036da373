//! A mesh raised to measure one contestant, with the servers that its clients call.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    contestant::{Contestant, Kind},
    error::BenchError,
    pair,
};
use crate::lab::{
    apps::{Background, Route, Stop, background_thread, echo, requests, throughput},
    control::mesh_file::Mesh,
    embedded::Embedded,
    net::{Namespace, fabric::UPLINK},
    process::{Process, Usage},
    testbed::{Launch, Options, Testbed},
    topology::Topology,
};

/// The time limit for anything that is expected to happen at once. The limit is generous, because the machine may be
/// busy.
pub(super) const SOON: Duration = Duration::from_secs(20);
/// How often the bench checks a condition that it waits for.
const BENCH_INTERVAL: Duration = Duration::from_micros(200);

/// A number of bytes too small to be part of a large push.
const FEW_BYTES: u64 = 16 * 1024;

/// The servers' ports, which the configurations of pairs name.
const REQUESTS: u16 = 8080;
const THROUGHPUT: u16 = 7001;
const ECHO: u16 = 7000;

/// The pods of a mesh, and their nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    /// A client on node one and a server on node two.
    Pair,
    /// A client and a server on node one.
    OneNode,
    /// Two clients on node one and two servers on node two.
    Neighbours,
}

/// A raised mesh.
pub(super) struct BenchMesh {
    // Fields are dropped in this order: each user of a thing is dropped before the thing.
    proxies: Vec<Process>,
    _servers: Vec<Background<u64>>,
    pub(super) testbed: Testbed<Embedded>,
    layout: Layout,
    direct: Option<SocketAddr>,
    /// The time from the start of node one's proxy until the proxy had acknowledged all pods of its node.
    pub(super) started: Duration,
    /// The time from the last bytes that discovery sent to node one's proxy until the proxy was ready.
    pub(super) ready_after_last_byte: Option<Duration>,
}

// === impl Layout ===

impl Layout {
    fn nodes(self) -> &'static [&'static str] {
        match self {
            Self::OneNode => &["one"],
            Self::Pair | Self::Neighbours => &["two", "one"],
        }
    }

    fn pods(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Self::Pair => &[("a0", "one", "10.77.1.1"), ("b0", "two", "10.77.2.1")],
            Self::OneNode => &[("a0", "one", "10.77.1.1"), ("b0", "one", "10.77.2.1")],
            Self::Neighbours => &[
                ("a0", "one", "10.77.1.1"),
                ("a1", "one", "10.77.1.2"),
                ("b0", "two", "10.77.2.1"),
                ("b1", "two", "10.77.2.2"),
            ],
        }
    }

    /// The mesh; `captured` says whether the pods' traffic is redirected to proxies.
    pub(super) fn mesh(self, captured: bool) -> Result<Mesh, BenchError> {
        let mut text = "nodes: {one: 10.77.0.1, two: 10.77.0.2}\npods:\n".to_owned();
        for (name, node, ip) in self.pods() {
            let pod = format!("namespace: bench, serviceAccount: {name}, node: {node}, ip: {ip}");
            text += &format!("  - {{name: {name}, {pod}, captured: {captured}}}\n");
        }
        Ok(Mesh::parse(&text)?)
    }
}

// === impl BenchMesh ===

impl BenchMesh {
    /// Raises the mesh and waits until everything is ready; files go into `directory`.
    pub(super) fn raise(
        contestant: &Contestant,
        layout: Layout,
        bulk: u32,
        directory: &Path,
    ) -> Result<Self, BenchError> {
        let mesh = layout.mesh(contestant.is_node())?;
        let topology = Topology::of(&mesh, false)?;
        let options = Options {
            id: "bench".to_owned(),
            directory: directory.to_owned(),
            // The proxies are started below, because the start of each one is timed.
            proxy: None,
            ready_limit: SOON,
        };
        let testbed = Testbed::raise(topology, Embedded::new(mesh).bulk(bulk), options)?;
        let mut servers = Vec::new();
        for (pod, ..) in layout.pods().iter().filter(|(name, ..)| name.starts_with('b')) {
            let (namespace, any) = (testbed.pod(&full(pod))?, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            servers.push(requests::serve(namespace, any, REQUESTS)?);
            servers.push(throughput::serve(namespace, any, THROUGHPUT)?);
            servers.push(echo::serve(namespace, any, ECHO)?);
        }
        let mut bench_mesh = Self {
            proxies: Vec::new(),
            _servers: servers,
            testbed,
            layout,
            direct: None,
            started: Duration::ZERO,
            ready_after_last_byte: None,
        };
        match &contestant.kind {
            Kind::Direct => {}
            Kind::Node(binary) => {
                for node in layout.nodes() {
                    bench_mesh.start_proxy(node, binary)?;
                }
            }
            pair => bench_mesh.start_pair(pair, directory)?,
        }
        Ok(bench_mesh)
    }

    fn start_proxy(&mut self, node: &str, binary: &Path) -> Result<(), BenchError> {
        let launch = Launch::new(binary).env("RUST_LOG", "error");
        let status = self.testbed.services().cni(node)?.status();
        let arrivals = arrivals(self.testbed.node(node)?)?;
        let begun = Instant::now();
        let mut process = self.testbed.launch(node, &launch)?;
        // The last of the pods has been acknowledged once the snapshot is complete.
        let done = || status.borrow().snapshots > 0;
        while !done() && process.status()?.is_none() && begun.elapsed() < SOON {
            thread::park_timeout(BENCH_INTERVAL);
        }
        self.started = begun.elapsed();
        // In place first: whoever waits wants its log.
        process.wait_until("take its pods", SOON, done)?;
        self.testbed.wait_ready_of(node, &mut process)?;
        let ready = Instant::now();
        self.ready_after_last_byte = arrivals.finish()?.map(|last| ready.saturating_duration_since(last));
        self.proxies.insert(0, process);
        Ok(())
    }

    fn start_pair(&mut self, kind: &Kind, directory: &Path) -> Result<(), BenchError> {
        let ip = |name: &str| self.layout.pods().iter().find(|pod| pod.0 == name).map(|pod| pod.2);
        let address = |name| -> Result<IpAddr, BenchError> {
            ip(name).and_then(|ip| ip.parse().ok()).ok_or(BenchError::Layout)
        };
        let programs = pair::programs(kind, directory, address("b0")?).map_err(BenchError::Pair)?;
        self.direct = Some(SocketAddr::new(address("a0")?, 0));
        for (program, pod) in programs.into_iter().zip(["a0", "b0"]) {
            self.proxies.push(program.start(self.pod(pod)?)?);
        }
        let route = self.requests()?;
        let process = self.proxies.first_mut().ok_or(BenchError::Layout)?;
        let answers = || requests::hold(&route, 1, Duration::ZERO, Duration::from_secs(1)).is_ok();
        Ok(process.wait_until("carry a request", SOON, answers)?)
    }

    /// The namespace in which a pod's programs run.
    pub(super) fn pod(&self, name: &str) -> Result<&Namespace, BenchError> {
        Ok(self.testbed.pod(&full(name))?)
    }

    /// The route from the client to the server of requests.
    pub(super) fn requests(&self) -> Result<Route, BenchError> {
        self.route("a0", "b0", REQUESTS)
    }

    /// The route from the client to the server of bytes.
    pub(super) fn throughput(&self) -> Result<Route, BenchError> {
        self.route("a0", "b0", THROUGHPUT)
    }

    /// The route from the client to the echo server.
    pub(super) fn echo(&self) -> Result<Route, BenchError> {
        self.route("a0", "b0", ECHO)
    }

    /// The route from the client's neighbour to the server of requests beside the echo server.
    pub(super) fn neighbour(&self) -> Result<Route, BenchError> {
        self.route("a1", "b1", REQUESTS)
    }

    fn route(&self, from: &str, to: &str, port: u16) -> Result<Route, BenchError> {
        let ip = self.layout.pods().iter().find(|pod| pod.0 == to).and_then(|pod| pod.2.parse().ok());
        let to =
            SocketAddr::new(self.direct.map_or(ip, |pair| Some(pair.ip())).ok_or(BenchError::Layout)?, port);
        Ok(Route::new(self.pod(from)?, to))
    }

    /// The processor time of each proxy's threads whose names begin with `prefix`, the client's proxy first.
    pub(super) fn threads(&self, prefix: &str) -> Result<Vec<Vec<Duration>>, BenchError> {
        let of = |process: &Process| Ok(process.threads(prefix)?.into_values().collect());
        self.proxies.iter().map(of).collect()
    }

    /// The resources that each proxy has used, the client's proxy first.
    pub(super) fn usage(&self) -> Result<Vec<Usage>, BenchError> {
        self.proxies.iter().map(|process| process.usage().map_err(Into::into)).collect()
    }
}

impl fmt::Debug for BenchMesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BenchMesh({:?})", self.layout)
    }
}

/// Watches the bytes that arrive at a node, and returns when the last byte of a large push arrived. Fewer than
/// [`FEW_BYTES`] since then are certificates and acknowledgements.
fn arrivals(node: &Namespace) -> Result<Background<Option<Instant>>, BenchError> {
    let watch = |stop: Stop| {
        let (mut last, mut known) = (None, received());
        while !stop.is_stopped() {
            let now = received();
            if now >= known + FEW_BYTES {
                (last, known) = (Some(Instant::now()), now);
            }
            thread::park_timeout(5 * BENCH_INTERVAL);
        }
        last
    };
    Ok(background_thread(node, watch)?)
}

/// The bytes that have arrived over the fabric in the namespace of this thread.
fn received() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(UPLINK)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn full(pod: &str) -> String {
    format!("bench/{pod}")
}

#[cfg(test)]
mod tests;
