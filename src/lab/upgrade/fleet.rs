//! The mesh whose proxies are upgraded: each a process of its own, whose successor is started beside it.

use std::{
    collections::BTreeMap,
    error::Error,
    path::{Path, PathBuf},
    process::ExitStatus,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::ways::{Place, WAYS, Way};
use crate::lab::{
    apps::{Route, http, lasting::Windows},
    control::mesh_file::Mesh,
    embedded::Embedded,
    net::Namespace,
    node::{field, wait},
    process::Process,
    testbed::{Launch, Options, Testbed},
};

const MESH: &str = include_str!("mesh.yaml");
/// The port of the pods' web servers.
pub(super) const WEB: u16 = 8080;
/// The port of the pods' lasting streams.
pub(super) const LASTING: u16 = 9000;
/// The time limit for a proxy to become ready.
const UP: Duration = Duration::from_secs(30);
/// The deadline of a proxy that stops. A hand-over that takes so long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
/// The time limit for anything that is expected to happen at once.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// The time from one look at the memory of processes to the next.
const LOOK: Duration = Duration::from_millis(4);

/// The mesh, and the current proxy of each node.
pub(super) struct Fleet {
    testbed: Testbed<Embedded>,
    mesh: Mesh,
    versions: [PathBuf; 2],
    current: BTreeMap<Place, Member>,
    launched: usize,
}

/// A proxy of a node.
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) place: Place,
    /// The number of versions and networks that the node has had before.
    turn: usize,
}

/// What is special about a proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Special {
    /// Where in the hand-over it is broken, as `WARREN_HANDOVER_FAULT` has it.
    pub(super) fault: Option<String>,
    /// The limit of its open files.
    pub(super) files: Option<u32>,
}

/// What a hand-over has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// The time from SIGTERM to the end of the old process.
    pub(super) time: Duration,
    /// By how many bytes the old process grew.
    pub(super) old_grown: u64,
    /// How many bytes more the new process had at its peak than the old one before.
    pub(super) new_grown: u64,
}

// === impl Fleet ===

impl Fleet {
    /// Raises the mesh as the lab called `id`, with its files in `directory`. Versions take turns.
    pub(super) fn raise(id: &str, directory: &Path, versions: [PathBuf; 2]) -> Result<Self, Box<dyn Error>> {
        let mesh = Mesh::parse(MESH)?;
        let options =
            Options { id: id.to_owned(), directory: directory.to_owned(), proxy: None, ready_limit: UP };
        let testbed = Testbed::up(mesh.clone(), false, options)?;
        let mut fleet = Self { testbed, mesh, versions, current: BTreeMap::new(), launched: 0 };
        fleet.renew()?;
        Ok(fleet)
    }

    /// Ends all proxies at once, and starts a new one of the first version on each node.
    pub(super) fn renew(&mut self) -> Result<(), String> {
        self.current.clear();
        for place in Place::BOTH {
            let member = self.launch(place, 0, &Special::default())?;
            self.current.insert(place, member);
        }
        self.settle()
    }

    /// Replaces the proxy of a node, which ends at once, by one with something special.
    pub(super) fn replace(&mut self, place: Place, special: &Special) -> Result<(), String> {
        drop(self.take(place)?);
        let member = self.launch(place, 0, special)?;
        self.current.insert(place, member);
        self.settle()
    }

    /// Takes the current proxy of a node out.
    pub(super) fn take(&mut self, place: Place) -> Result<Member, String> {
        self.current.remove(&place).ok_or_else(|| format!("node {place} has no proxy"))
    }

    /// Has a node go on with this proxy.
    pub(super) fn put(&mut self, member: Member) {
        self.current.insert(member.place, member);
    }

    /// Starts a successor of `old` beside it, and waits until it is ready.
    pub(super) fn successor(&mut self, old: &Member, special: &Special) -> Result<Member, String> {
        self.launch(old.place, old.turn + 1, special)
    }

    /// Upgrades these nodes at once: starts the successors, and has the old proxies hand over.
    pub(super) fn upgrade(&mut self, places: &[Place], windows: &Windows) -> Result<Vec<Cost>, String> {
        let mut olds = places.iter().map(|place| self.take(*place)).collect::<Result<Vec<_>, _>>()?;
        let news = olds.iter().map(|old| self.successor(old, &Special::default()));
        let news = news.collect::<Result<Vec<_>, _>>()?;
        windows.open();
        let costs = hand_over(&mut olds, &news);
        windows.close();
        news.into_iter().for_each(|new| self.put(new));
        costs
    }

    /// Waits until a connection on each way is served.
    pub(super) fn settle(&self) -> Result<(), String> {
        WAYS.iter().try_for_each(|way| wait(UP, || self.serves(*way)))
    }

    /// Makes a connection on this way, which must be served soon.
    pub(super) fn serves(&self, way: Way) -> Result<(), String> {
        let answer = http::get(&self.route(way, WEB)?, way.to, SOON);
        match answer.map_err(|error| format!("{way}: {error}"))?.status {
            200 => Ok(()),
            status => Err(format!("{way}: status {status}")),
        }
    }

    /// The route of a way to a port.
    pub(super) fn route(&self, way: Way, port: u16) -> Result<Route, String> {
        let to = self.mesh.pod(way.to).and_then(|pod| pod.ips.first());
        let to = to.ok_or_else(|| format!("no pod {}", way.to))?;
        Ok(Route::new(self.pod(way.from)?, (*to, port).into()))
    }

    /// The namespace of a pod.
    pub(super) fn pod(&self, name: &str) -> Result<&Namespace, String> {
        self.testbed.pod(name).map_err(text)
    }

    /// Adds policies in the words of a mesh file to the mesh, and waits until the proxies know them. None takes all away.
    pub(super) fn policies(&mut self, policies: Option<&str>) -> Result<(), String> {
        let policies = policies.map_or_else(String::new, |policies| format!("policies:\n{policies}"));
        let mesh = Mesh::parse(&format!("{MESH}{policies}")).map_err(text)?;
        self.testbed.update(mesh, false).map_err(text)?;
        self.testbed.services().settle(SOON).map_err(text)
    }

    /// The socket at which the proxies of a node hand over.
    pub(super) fn socket(&self, place: Place) -> PathBuf {
        self.testbed.directory().join(format!("handover-{place}.sock"))
    }

    /// Takes the mesh down.
    pub(super) fn lower(mut self) -> Result<(), Box<dyn Error>> {
        self.current.clear();
        Ok(self.testbed.lower()?)
    }

    fn launch(&mut self, place: Place, turn: usize, special: &Special) -> Result<Member, String> {
        self.launched += 1;
        let networks = place.networks();
        let network = networks.get(self.launched % networks.len()).copied().unwrap_or(place.node());
        let version = self.versions.get(turn % self.versions.len());
        let version = version.ok_or("there is no version")?;
        let of_node = |name: &str| {
            self.testbed.directory().join(format!("{name}-{place}.sock")).to_string_lossy().into_owned()
        };
        let mut launch = special
            .launch(version)
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", "info,access=off")
            .env("CONNECTION_TERMINATION_DEADLINE", format!("{}s", DEADLINE.as_secs()))
            .env("NODE_NAME", place.node())
            .env("INPOD_UDS", of_node("zds"))
            .env("WARREN_HANDOVER_UDS", of_node("handover"));
        launch.log = Some(format!("proxy-{place}-{}", self.launched));
        let mut process = self.testbed.launch(network, &launch).map_err(text)?;
        self.testbed.wait_ready_of(network, &mut process).map_err(text)?;
        Ok(Member { process, place, turn })
    }
}

// === impl Special ===

impl Special {
    fn launch(&self, binary: &Path) -> Launch {
        let mut launch = Launch::new(binary);
        if let Some(files) = self.files {
            let limited = format!("ulimit -n {files} && exec \"$0\" proxy ztunnel");
            launch.args = vec!["-c".to_owned(), limited, binary.to_string_lossy().into_owned()];
            launch.binary = PathBuf::from("/bin/sh");
        }
        match &self.fault {
            None => launch,
            Some(fault) => launch.env("WARREN_CHAOS", "true").env("WARREN_HANDOVER_FAULT", fault),
        }
    }
}

// === impl Member ===

impl Member {
    /// Tells the proxy to stop.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        self.process.signal(libc::SIGTERM).map_err(text)
    }

    /// Waits for the end of the proxy, within `limit`.
    pub(super) fn end(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        self.process.wait(limit).map_err(text)
    }

    /// The sum of a field of the lines that the proxy has logged of hand-overs.
    pub(super) fn logged(&self, name: &str) -> u64 {
        let text = self.process.log_text();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines = lines.filter(|line| field(line, "scope") == "handover");
        lines.filter_map(|line| line.get(name)?.as_u64()).sum()
    }

    /// The last thing that the proxy has logged of hand-overs.
    pub(super) fn last_words(&self) -> String {
        let text = self.process.log_text();
        let last = text.lines().rev().find(|line| line.contains("\"handover\""));
        last.unwrap_or("nothing about hand-overs").to_owned()
    }

    fn resident(&self) -> u64 {
        self.process.usage().map_or(0, |usage| usage.resident_bytes)
    }
}

/// Has the old processes hand over to the new ones, and waits for their ends.
fn hand_over(olds: &mut [Member], news: &[Member]) -> Result<Vec<Cost>, String> {
    let before: Vec<u64> = olds.iter().map(Member::resident).collect();
    let mut costs = vec![Cost::default(); olds.len()];
    let begun = Instant::now();
    olds.iter_mut().try_for_each(Member::stop)?;
    let mut left: Vec<usize> = (0..olds.len()).collect();
    while !left.is_empty() {
        let mut going = Vec::new();
        for index in left {
            let (Some(old), Some(new), Some(before), Some(cost)) =
                (olds.get_mut(index), news.get(index), before.get(index), costs.get_mut(index))
            else {
                continue;
            };
            cost.old_grown = cost.old_grown.max(old.resident().saturating_sub(*before));
            cost.new_grown = cost.new_grown.max(new.resident().saturating_sub(*before));
            match old.process.status().map_err(text)? {
                None => going.push(index),
                Some(status) if status.success() => cost.time = begun.elapsed(),
                Some(status) => return Err(format!("the old proxy of node {} ended: {status}", old.place)),
            }
            if begun.elapsed() > DEADLINE / 2 {
                return Err(format!("the old proxy of node {} stays: {}", old.place, old.last_words()));
            }
        }
        left = going;
        thread::park_timeout(LOOK);
    }
    Ok(costs)
}

/// The text of an error.
pub(super) fn text(error: impl Error) -> String {
    error.to_string()
}
