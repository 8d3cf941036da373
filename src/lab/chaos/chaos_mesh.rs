//! The mesh that chaos breaks while it is up, and the probe that watches it from outside.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::flow::Flow;
use crate::lab::{
    apps::{Background, Route, Stop, background_thread, http},
    control::mesh_file::Mesh,
    embedded::Embedded,
    net::Namespace,
    node::{Node, wait},
    testbed::{Launch, Options, Testbed, readiness},
};

/// The port of the pods' web servers.
pub(super) const WEB: u16 = 8080;

const MESH: &str = include_str!("mesh.yaml");

/// The time limit for anything that is expected to happen at once. The limit is generous, because the machine may be
/// busy.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// The time limit for the mesh to come up.
const UP: Duration = Duration::from_secs(20);
/// How long traffic runs before a fault and after its repair, unless time is short.
const STEADY: Duration = Duration::from_millis(250);
/// The time from one readiness question to the next.
const ASK: Duration = Duration::from_millis(10);

/// The mesh under chaos.
pub(super) struct ChaosMesh {
    /// The hosts, proxies and services of the mesh.
    pub(super) testbed: Testbed<Embedded>,
    /// How long traffic runs before a fault and after its repair.
    pub(super) steady: Duration,
    mesh: Mesh,
}

/// Asks again and again whether a node is ready.
pub(super) struct Probe {
    heard: Arc<AnswerCounters>,
    asking: Background<()>,
}

/// The answers to readiness questions, and their numbers.
#[derive(Debug, Default)]
struct AnswerCounters {
    ready: AtomicU64,
    not_ready: AtomicU64,
    silence: AtomicU64,
}

/// The number of answers of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerCounts {
    /// The number of "ready" answers.
    pub(super) ready: u64,
    /// The number of "not ready" answers.
    pub(super) not_ready: u64,
    /// The number of questions without an answer.
    pub(super) silence: u64,
}

// === impl ChaosMesh ===

impl ChaosMesh {
    /// Raises the mesh with `program` as the proxies, as the lab called `id`, with its files in `directory`.
    pub(super) fn raise(id: &str, directory: &Path, program: &Path) -> Result<Self, Box<dyn Error>> {
        let mesh = Mesh::parse(MESH)?;
        let launch = Launch::new(program)
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", "warn,access=off")
            .env("UNSTABLE_ENABLE_SOCKS5", "true")
            // An empty file of revocation lists, so that its actor is there.
            .env("CRL_PATH", "/dev/null")
            .env("WARREN_CHAOS", "true");
        let options = Options {
            id: id.to_owned(),
            directory: directory.to_owned(),
            proxy: Some(launch),
            ready_limit: UP,
        };
        Ok(Self { testbed: Testbed::up(mesh.clone(), false, options)?, steady: STEADY, mesh })
    }

    /// Restarts node one's proxy, so that no earlier fault counts, and waits until all flows are served.
    pub(super) fn renew(&mut self) -> Result<(), String> {
        self.testbed.restart_proxy("one").map_err(text)?;
        self.settle()
    }

    /// Waits until all flows are served.
    pub(super) fn settle(&self) -> Result<(), String> {
        Flow::ALL.iter().try_for_each(|flow| wait(UP, || self.serves(*flow)))
    }

    /// Sends one request of this flow, which must be answered soon.
    pub(super) fn serves(&self, flow: Flow) -> Result<(), String> {
        self.get(flow.ends(), WEB).map_err(|error| format!("{flow:?}: {error}"))
    }

    /// The node of that name, to query and to break.
    pub(super) fn node(&self, name: &'static str) -> Result<Node, String> {
        let log = self.testbed.directory().join(format!("proxy-{name}.log"));
        Ok(Node::new(name, self.testbed.node(name).map_err(text)?, log))
    }

    /// A pod's path in the tree, and its address.
    pub(super) fn pod(&self, name: &str) -> Result<(String, String), String> {
        let pod = self.mesh.pod(name).ok_or_else(|| format!("the mesh has no pod {name}"))?;
        let ip = pod.ips.first().ok_or_else(|| format!("pod {name} has no address"))?;
        Ok((pod.kubernetes_uid(), ip.to_string()))
    }

    /// The route from one pod to a port of another.
    pub(super) fn route(&self, (from, to): (&str, &str), port: u16) -> Result<Route, String> {
        let to = self.mesh.pod(to).and_then(|pod| pod.ips.first()).ok_or_else(|| format!("no pod {to}"))?;
        Ok(Route::new(self.testbed.pod(from).map_err(text)?, (*to, port).into()))
    }

    /// Sends one request, which must be answered soon.
    fn get(&self, ends: (&str, &str), port: u16) -> Result<(), String> {
        match http::get(&self.route(ends, port)?, "server", SOON).map_err(text)?.status {
            200 => Ok(()),
            status => Err(format!("status {status}")),
        }
    }

    /// Starts to ask node one whether it is ready.
    pub(super) fn probe(&self) -> Result<Probe, String> {
        let node: Namespace = self.testbed.node("one").map_err(text)?.clone();
        let heard = Arc::new(AnswerCounters::default());
        let told = heard.clone();
        let asked = node.clone();
        let ask = move |stop: Stop| {
            while !stop.is_stopped() {
                match readiness(&asked) {
                    Ok(answer) if answer.status == 200 => &told.ready,
                    Ok(_) => &told.not_ready,
                    Err(_) => &told.silence,
                }
                .fetch_add(1, Relaxed);
                pause(ASK);
            }
        };
        Ok(Probe { heard, asking: background_thread(&node, ask).map_err(text)? })
    }

    /// Waits for a short time until node one reports that it is ready.
    pub(super) fn is_ready(&self) -> Result<(), String> {
        let node = self.testbed.node("one").map_err(text)?;
        wait(SOON, || match readiness(node).map_err(text)? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("node one is not ready again: {}", answer.body.trim())),
        })
    }
}

// === impl Probe ===

impl Probe {
    /// Stops the probe and returns its counts.
    pub(super) fn finish(self) -> Result<AnswerCounts, String> {
        self.asking.finish().map_err(text)?;
        let count = |number: &AtomicU64| number.load(Relaxed);
        let AnswerCounters { ready, not_ready, silence } = &*self.heard;
        Ok(AnswerCounts { ready: count(ready), not_ready: count(not_ready), silence: count(silence) })
    }
}

/// Lets traffic run for a while.
pub(super) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// The text of an error.
pub(super) fn text(error: impl Error) -> String {
    error.to_string()
}
