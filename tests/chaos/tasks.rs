use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use warren::lab::control::mesh_file::Mesh;

use crate::support::*;

fn panics(lab: &Lab, node: &str, kind: &str) -> u64 {
    counter(lab, node, &format!("warren_task_panics_total{{kind=\"{kind}\"}}"))
}

fn take(wires: &mut Vec<Wire>, name: &str) -> Wire {
    let at = wires.iter().position(|wire| wire.name == name).unwrap();
    wires.remove(at)
}

pub(crate) fn a_panic_in_a_connection_closes_it_alone_and_is_said() {
    let lab = raise();
    let mut wires = wires(&lab);
    for (node, kind, name) in [
        ("one", "outbound", "client to server"),
        ("two", "inbound", "client to server"),
        ("one", "plaintext", "bare to near"),
    ] {
        let mut victim = take(&mut wires, name);
        chaos(&lab, node, &format!("/tasks/{kind}/panic"));
        assert!(victim.echo().is_err(), "{kind} goes on");
        victim.assert_closed();
        assert_open(&mut wires, &format!("a panic in an {kind} connection"));
        assert_eq!(panics(&lab, node, kind), 1);
        let logged = eventually("lines in the log", || {
            let log = log(&lab, node);
            let place = log.lines().any(|line| {
                line.contains("connection task panicked")
                    && line.contains(&format!("/conns/{kind}"))
                    && line.contains("root/dataplane/pods/")
            });
            let access =
                log.lines().filter(|line| line.contains("io error: connection task panicked")).count();
            place.then_some(access)
        });
        assert!(logged >= 1, "the access log of {node} does not say how the {kind} connection ended");
        wires.push(wire(&lab, name));
    }
}

pub(crate) fn a_panic_in_a_tunnel_closes_its_streams_alone() {
    // One shard, and so one tunnel.
    let lab = raise_on(1);
    let mut wires = wires(&lab);
    for (node, kind) in [("two", "tunnel"), ("one", "tunnel/dial")] {
        // Both streams of one tunnel, but not the connections beside it.
        let mut victims = [take(&mut wires, "client to server"), wire(&lab, "client to server")];
        let mut near = take(&mut wires, "client to near");
        chaos(&lab, node, &format!("/tasks/{kind}/panic"));
        assert!(victims[0].echo().is_err(), "{kind} goes on");
        victims.iter_mut().for_each(Wire::assert_closed);
        assert_open(&mut wires, &format!("a panic in a {kind}"));
        near.echo().unwrap();
        assert_eq!(panics(&lab, node, kind), 1);
        wires.push(near);
        wires.push(wire(&lab, "client to server"));
    }
    // A question for a tunnel that is lost is asked again.
    let mut lab = lab;
    renew(&mut lab, "one");
    chaos(&lab, "one", "/tasks/tunnel/ask/panic");
    wire(&lab, "client to server");
    assert_eq!(panics(&lab, "one", "tunnel/ask"), 1);
}

pub(crate) fn a_lost_shard_is_replaced_and_everything_is_placed_again() {
    let lab = raise();
    let wires = wires(&lab);
    chaos(&lab, "one", "/tasks/shard/thread/panic");
    eventually("loss of a shard", || {
        // Opening connections wakes the shards.
        drop(wire(&lab, "client to server"));
        let lost = actors(&lab, "one").into_iter().any(|actor| actor.is == "shard" && actor.restarts == 1);
        lost.then_some(())
    });
    drop(wires);
    for _ in 0..4 {
        self::wires(&lab);
    }
    assert!(actors(&lab, "one").iter().all(|actor| actor.state == "up"));
}

/// The kind, and what makes such a task run: the loss of an actor, or something else.
const OTHERS: [(&str, Option<&str>); 16] = [
    ("admin/accept", None),
    ("http", None),
    ("supervisor/watchdog", Some("root/telemetry")),
    ("capture/accept", Some("")),
    ("zds/pod", Some("late")),
    ("certs/request", Some("late")),
    ("certs/timer", Some("root/certs")),
    ("health/watch", Some("root/admin/health")),
    ("policy/watch", Some("policy")),
    ("shard/watch", Some("root/shards/shard-0")),
    ("supervisor/backoff", Some("root/telemetry")),
    ("supervisor/start", Some("root/telemetry")),
    ("supervisor/stop", Some("root/meshsup/mesh")),
    ("xds/stream", Some("root/meshsup/xds")),
    ("zds/link", Some("root/dataplane/zds")),
    ("zds/timer", Some("late")),
];

pub(crate) fn a_panic_of_any_other_task_is_repaired_and_costs_no_connection() {
    let mut lab = raise();
    for (kind, trigger) in OTHERS {
        renew(&mut lab, "one");
        let mut wires = wires(&lab);
        chaos(&lab, "one", &format!("/tasks/{kind}/panic"));
        match trigger {
            None => {}
            Some("") => drop(wire(&lab, "client to near")),
            Some("late") => add_late(&mut lab),
            Some(path) => {
                let of_client =
                    |actor: &Node| actor.path.ends_with(&format!("/{path}")) || actor.path == path;
                let victim = actors(&lab, "one").into_iter().find(of_client).unwrap().path;
                break_actor(&lab, "one", &victim, "kill");
            }
        }
        let repaired = || {
            let up = actors(&lab, "one").iter().all(|actor| actor.state == "up");
            (up && panics(&lab, "one", kind) >= 1).then_some(())
        };
        eventually(&format!("repair of {kind}"), repaired);
        assert_open(&mut wires, &format!("a panic in {kind}"));
        drop(wires);
        for (name, ..) in WIRES {
            wire(&lab, name);
        }
        lab.services().settle(LIMIT).unwrap();
        if trigger == Some("late") {
            late_is_served(&lab);
            lab.update(Mesh::parse(MESH).unwrap(), false).unwrap();
        }
    }
}

/// Somebody who follows the page of node "one".
struct Viewer {
    stream: TcpStream,
    read: String,
}

impl Viewer {
    /// Asks for a path of the page, as a browser does.
    fn ask(lab: &Lab, path: &str) -> Self {
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, 15000));
        let mut stream = lab.node("one").unwrap().run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        Self { stream, read: String::new() }
    }

    /// Follows the page; returns with the first event.
    fn follow(lab: &Lab) -> Self {
        let mut viewer = Self::ask(lab, "/page/updates");
        assert!(viewer.hears_more(), "no event: {}", viewer.read);
        viewer
    }

    /// All of an answer that ends.
    fn whole(mut self) -> String {
        self.stream.read_to_string(&mut self.read).unwrap();
        self.read
    }

    /// Reads until another event has begun. Returns `false` at the end of the stream.
    fn hears_more(&mut self) -> bool {
        let events = |read: &str| read.matches("\ndata: ").count();
        let (before, mut buffer) = (events(&self.read), [0; 4096]);
        while events(&self.read) == before {
            match self.stream.read(&mut buffer).unwrap() {
                0 => return false,
                bytes => self.read.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
            }
        }
        true
    }
}

pub(crate) fn a_panic_of_a_viewers_task_ends_that_stream_alone_and_frees_its_place() {
    let lab = raise();
    let mut wires = wires(&lab);
    // As many as may follow at a time.
    let mut viewers: Vec<Viewer> = (0..8).map(|_| Viewer::follow(&lab)).collect();
    let refused = || Viewer::ask(&lab, "/page/updates").whole().starts_with("HTTP/1.1 503");
    assert!(refused(), "there is no place left");
    chaos(&lab, "one", "/tasks/page/viewer/panic");
    eventually("a panic", || (panics(&lab, "one", "page/viewer") == 1).then_some(()));
    // Two more events each: the first may have been on its way.
    viewers.retain_mut(|viewer| viewer.hears_more() && viewer.hears_more());
    assert_eq!(viewers.len(), 7, "one stream has ended");
    viewers.push(Viewer::follow(&lab));
    assert!(viewers.iter_mut().all(Viewer::hears_more));
    assert!(refused(), "and no other place is free");
    let page = Viewer::ask(&lab, "/").whole();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("default/client"), "{page}");
    assert_eq!(panics(&lab, "one", "page/viewer"), 1);
    assert!(actors(&lab, "one").iter().all(|actor| actor.state == "up" && actor.restarts == 0));
    assert_open(&mut wires, "a panic of a viewer's task");
}

fn add_late(lab: &mut Lab) {
    let mesh = Mesh::parse(&format!("{MESH}{LATE}")).unwrap();
    // A hand-over that fails is tried again.
    while let Err(error) = lab.update(mesh.clone(), false) {
        eprintln!("{error}");
    }
}

fn late_is_served(lab: &Lab) {
    let served = || {
        let connect =
            || std::net::TcpStream::connect("10.77.2.1:9000".parse::<std::net::SocketAddr>().unwrap());
        lab.pod("late").ok()?.run(connect).unwrap().ok()
    };
    eventually("service of the late pod", served);
    let listed = || {
        let conns = actors(lab, "one").into_iter().filter(|actor| actor.is == "conns").count();
        (conns >= 3).then_some(())
    };
    eventually("actors of the late pod", listed);
}
