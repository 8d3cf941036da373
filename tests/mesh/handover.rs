//! Live connections move to the next process of their node.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use warren::lab::{net::Namespace, process::Process, testbed::Launch};

use crate::{lifecycle::ends_well, logs::line_of, quarantine::admin, support::*};

/// [`MESH`], and a node without pods. In a cluster each proxy pod has a network of its own; here the second process of
/// node one runs in the network of that node.
pub(crate) fn mesh() -> String {
    MESH.replace("nodes: {one: 10.77.0.1,", "nodes: {one: 10.77.0.1, spare: 10.77.0.3,")
}

/// Raises the mesh, and ends the proxy of the spare node.
pub(crate) fn raise_spare() -> Lab {
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "60s")];
    let mut lab = raise_with(&mesh(), &settings, Default::default());
    let mut spare = lab.take_proxy("spare").unwrap();
    spare.signal(libc::SIGTERM).unwrap();
    ends_well(&mut spare);
    lab
}

/// A further process of node one, in the network of `place`.
fn next_of_one(lab: &Lab, place: &str, number: usize) -> Process {
    next_of(lab, "one", place, number)
}

/// A further process of a node, in the network of `place`.
pub(crate) fn next_of(lab: &Lab, node: &str, place: &str, number: usize) -> Process {
    let of_node = |name: &str| lab.directory().join(format!("{name}-{node}.sock")).display().to_string();
    let launch = Launch { log: Some(format!("proxy-{node}-{number}")), ..launch() };
    let launch = launch
        .env("CONNECTION_TERMINATION_DEADLINE", "60s")
        .env("NODE_NAME", node)
        .env("INPOD_UDS", of_node("zds"))
        .env("WARREN_HANDOVER_UDS", of_node("handover"));
    let mut process = lab.launch(place, &launch).unwrap();
    lab.wait_ready_of(place, &mut process).unwrap();
    process
}

/// Has the process hand over to the next one, and waits for its end.
pub(crate) fn upgrade(mut old: Process) {
    old.signal(libc::SIGTERM).unwrap();
    ends_well(&mut old);
}

/// The samples of the proxy that runs in the network of `place`.
pub(crate) fn moved(lab: &Lab, place: &str, result: &str, kind: &str) -> f64 {
    let now = crate::metrics::metrics(lab, place);
    now.sum("warren_handover_connections_total", &[("result", result), ("kind", kind)])
}

pub(crate) fn live_connections_of_each_kind_go_on_in_the_next_process() {
    let mut lab = raise_spare();
    let stopped = listen(lab.pod("bare").unwrap(), 7000);
    let mut kept: Vec<TcpStream> = [("client", BARE), ("bare", NEAR), ("client", NEAR)]
        .map(|(pod, to)| open(&lab, pod, to).unwrap())
        .into();
    // The client of one has ended, and its server has not answered yet.
    let mut half = dial(&lab, "client", "10.77.2.9:7000").unwrap();
    half.write_all(b"question").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut served = accept(&stopped);
    assert_eq!(end_of(&mut served), End::Closed(b"question".to_vec()));
    // The server of another one reads nothing.
    let mut full = dial(&lab, "client", "10.77.2.9:7000").unwrap();
    let mut unread = accept(&stopped);
    let written = fill(&mut full);

    let next = next_of_one(&lab, "spare", 2);
    upgrade(lab.take_proxy("one").unwrap());
    for stream in &mut kept {
        echo(stream, &vec![7; 300_000]).unwrap();
    }
    served.write_all(b"answer").unwrap();
    drop(served);
    assert_eq!(end_of(&mut half), End::Closed(b"answer".to_vec()));
    full.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    unread.read_to_end(&mut got).unwrap();
    assert!(got.len() == written && is_pattern(&got), "{} of {written} bytes", got.len());
    drop(unread);
    for (kind, count) in [("outbound", 3.0), ("plaintext", 1.0), ("local", 1.0)] {
        assert_eq!(moved(&lab, "spare", "taken", kind), count, "{kind}\n{}", next.log_text());
    }
    assert_eq!(crate::metrics::metrics(&lab, "spare").sum("warren_handover_stall_seconds_count", &[]), 5.0);
    // The next process tells of the end, with all bytes and the time since the beginning.
    for mut stream in kept {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
    }
    let bytes = (5 + 300_000).to_string();
    for (dst, direction) in [(BARE, "outbound"), (NEAR, "inbound"), (NEAR, "outbound")] {
        let line =
            line_of(&next, &[("bytes_sent", &bytes), ("bytes_recv", &bytes), ("direction", direction)]);
        assert_eq!(line.level, "info", "{dst}: {line:#?}");
    }
}

pub(crate) fn busy_connections_go_on_over_several_upgrades_and_no_new_one_is_refused() {
    const UPGRADES: usize = 4;
    const STREAMS: usize = 4;
    let mut lab = raise_spare();
    let _logs = LogsOfFailure::of(&lab);
    let mut current = lab.take_proxy("one").unwrap();
    let (client, bare) = (lab.pod("client").unwrap(), lab.pod("bare").unwrap());
    let (over, echoed, opened) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let ways = [(client, BARE), (bare, NEAR), (client, NEAR)];
    thread::scope(|scope| {
        for number in 0..STREAMS {
            for (from, to) in ways {
                let (over, echoed) = (&over, &echoed);
                scope.spawn(move || stream_until(over, (from, to), number as u8, echoed));
            }
        }
        for (from, to) in ways {
            let (over, opened) = (&over, &opened);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut stream = dial_from(from, addr(to)).unwrap();
                    echo(&mut stream, b"new").unwrap();
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whatever fails here ends the others, too.
        let end = OnDrop(&over);
        for number in 0..UPGRADES {
            let before = (echoed.load(Ordering::Relaxed), opened.load(Ordering::Relaxed));
            let next = next_of_one(&lab, ["spare", "one"][number % 2], number + 2);
            upgrade(std::mem::replace(&mut current, next));
            eventually("bytes and connections after the upgrade", || {
                let now = (echoed.load(Ordering::Relaxed), opened.load(Ordering::Relaxed));
                (now.0 > before.0 + (8 << 20) && now.1 > before.1 + 50).then_some(())
            });
        }
        drop(end);
    });
    let kinds = ["outbound", "plaintext", "local"];
    let place = ["spare", "one"][(UPGRADES - 1) % 2];
    for kind in kinds {
        assert!(moved(&lab, place, "taken", kind) >= STREAMS as f64, "{kind}\n{}", current.log_text());
    }
}

pub(crate) fn a_thousand_idle_connections_move_and_each_is_the_one_it_was() {
    const EACH: usize = 334;
    let mut lab = raise_spare();
    let mut kept: Vec<TcpStream> = Vec::new();
    for (pod, to) in [("client", BARE), ("bare", NEAR), ("client", NEAR)] {
        kept.extend((0..EACH).map(|_| open(&lab, pod, to).unwrap()));
    }
    let next = next_of_one(&lab, "spare", 2);
    let mut old = lab.take_proxy("one").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    ends_well(&mut old);
    let told = |process: &Process, what: &str| {
        let text = process.log_text();
        let lines = text.lines().filter(|line| line.contains("handover") && line.contains(what));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    println!("{:#?}\n{:#?}", told(&old, "handed over"), told(&next, "handed over"));
    for (number, stream) in kept.iter_mut().enumerate() {
        echo(stream, format!("connection {number}").as_bytes()).unwrap();
    }
    for kind in ["outbound", "plaintext", "local"] {
        assert_eq!(moved(&lab, "spare", "taken", kind), EACH as f64, "{kind}");
        assert_eq!(moved(&lab, "spare", "refused", kind), 0.0, "{kind}");
    }
    let metrics = crate::metrics::metrics(&lab, "spare");
    let within = |le: &str| metrics.sum("warren_handover_stall_seconds_bucket", &[("le", le)]);
    println!(
        "stalls: {:?}",
        ["0.001", "0.005", "0.025", "0.05", "0.25", "1.0", "+Inf"].map(|le| (le, within(le)))
    );
}

pub(crate) fn without_a_next_process_connections_stay_until_the_deadline() {
    let mut lab = raise_spare();
    let mut kept = open(&lab, "client", NEAR).unwrap();
    let mut old = lab.take_proxy("one").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    eventually("search for the next process", || {
        old.log_text().contains("no next process takes connections").then_some(())
    });
    // A connection between two pods of the node counts at each.
    let tree = admin(&lab, "one", "GET /actors");
    assert!(tree.contains("hand-over: connections left: 2; no process takes them yet"), "{tree}");
    for _ in 0..20 {
        echo(&mut kept, &vec![7; 100_000]).unwrap();
    }
    // One that comes later is found.
    let _next = next_of_one(&lab, "spare", 2);
    ends_well(&mut old);
    echo(&mut kept, &vec![7; 100_000]).unwrap();
}

/// Prints the logs of all proxies when the test fails.
pub(crate) struct LogsOfFailure(std::path::PathBuf);

impl LogsOfFailure {
    pub(crate) fn of(lab: &Lab) -> Self {
        Self(lab.directory().to_owned())
    }
}

impl Drop for LogsOfFailure {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files.filter(|path| path.extension().is_some_and(|name| name == "log")) {
            println!("{}:\n{}", file.display(), std::fs::read_to_string(&file).unwrap_or_default());
        }
    }
}

pub(crate) struct OnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a pattern to an echoing server and holds what comes back to it.
pub(crate) fn stream_until(over: &AtomicBool, (from, to): (&Namespace, &str), seed: u8, echoed: &AtomicU64) {
    let mut stream = dial_from(from, addr(to)).unwrap();
    let mut sent = vec![0; 192 * 1024];
    let mut turn = u64::from(seed);
    while !over.load(Ordering::Relaxed) {
        for (at, byte) in sent.iter_mut().enumerate() {
            *byte = (at as u64).wrapping_mul(31).wrapping_add(turn.wrapping_mul(17)) as u8;
        }
        turn += 1;
        let mut back = stream.try_clone().unwrap();
        let (length, expected) = (sent.len(), &sent);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut got = vec![0; length];
                back.read_exact(&mut got).unwrap();
                assert!(got == *expected, "other bytes came back");
            });
            stream.write_all(expected).unwrap();
        });
        echoed.fetch_add(length as u64, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
}

/// Writes a pattern until nobody takes more of it. Returns the number of bytes.
pub(crate) fn fill(stream: &mut TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut written, mut idle) = (0, 0);
    while idle < 30 {
        let chunk: Vec<u8> = (written..written + 65_536).map(|at| (at % 251) as u8).collect();
        match stream.write(&chunk) {
            Ok(n) => (written, idle) = (written + n, 0),
            Err(_) => {
                idle += 1;
                thread::park_timeout(std::time::Duration::from_millis(10));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    written
}

pub(crate) fn is_pattern(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8)
}
