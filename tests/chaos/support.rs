//! Raising the mesh, its connections, and asking its proxies.

use std::{
    fs, io,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;
use warren::lab::{
    apps::{Route, http},
    control::mesh_file::Mesh,
    embedded::Embedded,
    testbed::{Launch, Options, Testbed},
    testing::{program, scratch},
};

pub(crate) type Lab = Testbed<Embedded>;

/// Nothing here takes longer unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(25);
/// How often to look for what must come.
const LOOK: Duration = Duration::from_millis(10);

/// `client` and `near` on node one, `server` on node two; `bare` is on node two and not captured.
pub(crate) const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, run: echo 9000}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, run: echo 9000}
  - {name: bare, serviceAccount: bare, node: two, ip: 10.77.2.9, captured: false, run: echo 9000}
";
/// One more pod, of another identity.
pub(crate) const LATE: &str =
    "  - {name: late, serviceAccount: late, node: one, ip: 10.77.1.3, run: echo 9000}\n";

/// A connection of a pod through the proxies.
pub(crate) struct Wire {
    pub name: &'static str,
    stream: TcpStream,
}

/// An actor as the admin port shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub path: String,
    pub is: String,
    pub kind: String,
    pub state: String,
    pub restarts: u64,
    pub last: Option<(String, String)>,
}

pub(crate) fn raise() -> Lab {
    raise_on(2)
}

/// Raises the mesh with proxies of so many shards.
pub(crate) fn raise_on(shards: usize) -> Lab {
    raise_of(MESH, shards)
}

pub(crate) fn raise_of(mesh: &str, shards: usize) -> Lab {
    let proxy = Launch::new(program("warren").unwrap())
        .env("WARREN_CHAOS", "true")
        .env("ZTUNNEL_WORKER_THREADS", shards.to_string());
    let options =
        Options { id: "c".to_owned(), directory: scratch(), proxy: Some(proxy), ready_limit: LIMIT };
    Testbed::up(Mesh::parse(mesh).unwrap(), false, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Looks until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "within {LIMIT:?} there was no {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Where each connection of [`wires`] goes: from, to.
pub(crate) const WIRES: [(&str, &str, &str); 4] = [
    ("client to server", "client", "10.77.2.1:9000"),
    ("client to near", "client", "10.77.1.2:9000"),
    ("bare to near", "bare", "10.77.1.2:9000"),
    ("client to bare", "client", "10.77.2.9:9000"),
];

/// Opens one of [`WIRES`], as often as it takes.
pub(crate) fn wire(lab: &Lab, name: &'static str) -> Wire {
    let (_, from, to) = *WIRES.iter().find(|(known, ..)| *known == name).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let open = || {
        let connect = || TcpStream::connect_timeout(&to, LIMIT);
        let stream = lab.pod(from).unwrap().run(connect).unwrap().ok()?;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire { name, stream };
        wire.echo().is_ok().then_some(wire)
    };
    eventually(&format!("connection {name}"), open)
}

/// Opens all of [`WIRES`].
pub(crate) fn wires(lab: &Lab) -> Vec<Wire> {
    WIRES.iter().map(|(name, ..)| wire(lab, name)).collect()
}

impl Wire {
    /// Sends a few bytes and reads them back.
    pub(crate) fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(b"hello")?;
        let mut back = [0; 5];
        self.stream.read_exact(&mut back)?;
        if &back == b"hello" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Reads until the end, which must come.
    pub(crate) fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{}: more than was sent", self.name),
            Err(error) => {
                let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                assert!(!timed_out, "{} is still open", self.name);
            }
        }
    }
}

/// Checks that all are still open.
pub(crate) fn assert_open(wires: &mut [Wire], after: &str) {
    for wire in wires {
        wire.echo().unwrap_or_else(|error| panic!("{} did not survive {after}: {error}", wire.name));
    }
}

/// Asks the admin port of a node's proxy.
pub(crate) fn admin(lab: &Lab, node: &str, request: &str) -> Option<(u16, String)> {
    exchange(lab, node, 15000, request)
}

fn exchange(lab: &Lab, node: &str, port: u16, request: &str) -> Option<(u16, String)> {
    let route = Route::new(lab.node(node).unwrap(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = http::exchange(&route, &head, LIMIT).ok()?;
    Some((answer.status, answer.body))
}

/// Breaks something, and checks that this was done.
pub(crate) fn chaos(lab: &Lab, node: &str, path: &str) {
    // The port is away for a moment after its own actor was broken.
    let (status, text) = eventually("admin port", || admin(lab, node, &format!("POST {path}")));
    assert_eq!(status, 200, "{path}: {text}");
}

/// All actors of a node's proxy, from the root down.
pub(crate) fn actors(lab: &Lab, node: &str) -> Vec<Node> {
    let text = eventually("tree", || admin(lab, node, "GET /actors").filter(|(status, _)| *status == 200)).1;
    let mut left = vec![serde_json::from_str::<Value>(&text).unwrap()[0].clone()];
    let mut nodes = Vec::new();
    while let Some(node) = left.pop() {
        left.extend(node["children"].as_array().unwrap().iter().rev().cloned());
        let text = |name: &str| node[name].as_str().unwrap().to_owned();
        let exit = &node["lastExit"];
        let last = exit["at"].as_str().map(|at| (at.to_owned(), exit["reason"].as_str().unwrap().to_owned()));
        nodes.push(Node {
            path: text("path"),
            is: text("is"),
            kind: text("kind"),
            state: text("state"),
            restarts: node["restarts"].as_u64().unwrap(),
            last,
        });
    }
    nodes
}

pub(crate) fn actor(lab: &Lab, node: &str, path: &str) -> Option<Node> {
    actors(lab, node).into_iter().find(|actor| actor.path == path)
}

/// Breaks the actor, waits until it and all others are up again, and gives why it is said to have ended.
pub(crate) fn break_actor(lab: &Lab, node: &str, path: &str, how: &str) -> String {
    let before = actor(lab, node, path).unwrap_or_else(|| panic!("no {path}")).restarts;
    chaos(lab, node, &format!("/actors/{path}/{how}"));
    let repaired = || {
        let nodes = actors(lab, node);
        let victim = nodes.iter().find(|actor| actor.path == path).filter(|actor| actor.restarts > before)?;
        nodes.iter().all(|actor| actor.state == "up").then(|| victim.clone())
    };
    eventually(&format!("repair of {path} after {how}"), repaired).last.unwrap().1
}

/// A counter of a node's proxy; 0 if it is not shown.
pub(crate) fn counter(lab: &Lab, node: &str, series: &str) -> u64 {
    let (_, text) = eventually("metrics", || exchange(lab, node, 15020, "GET /metrics"));
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

/// The log of a node's proxy.
pub(crate) fn log(lab: &Lab, node: &str) -> String {
    fs::read_to_string(lab.directory().join(format!("proxy-{node}.log"))).unwrap()
}

/// Starts the proxy of a node anew, with an unspent allowance of restarts.
pub(crate) fn renew(lab: &mut Lab, node: &str) {
    lab.restart_proxy(node).unwrap_or_else(|error| panic!("{error}"));
}
