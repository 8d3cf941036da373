//! Live tunnels move to the next process of their node, and their peers do not notice.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use crate::{
    handover::{LogsOfFailure, OnDrop, fill, is_pattern, moved, next_of, raise_spare, stream_until, upgrade},
    logs::line_of,
    policy::deny,
    support::*,
};

/// The connections through tunnels of either direction, as node one sees them.
const WAYS: [(&str, &str); 2] = [("client", SERVER), ("server", NEAR)];

/// The nodes, and the network in which each gets its next process.
const PLACES: [(&str, &str); 2] = [("one", "spare"), ("two", "one")];

pub(crate) fn live_tunnels_go_on_in_the_next_process_of_either_node() {
    let mut lab = raise_spare();
    let mut kept: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        kept.extend(WAYS.map(|(pod, to)| open(&lab, pod, to).unwrap()));
    }
    let stopped = listen(lab.pod("server").unwrap(), 7000);
    // The client of one has ended, and its server has not answered yet.
    let mut half = dial(&lab, "client", "10.77.2.1:7000").unwrap();
    half.write_all(b"question").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    let mut served = accept(&stopped);
    assert_eq!(end_of(&mut served), End::Closed(b"question".to_vec()));
    // The server of another one reads nothing.
    let mut full = dial(&lab, "client", "10.77.2.1:7000").unwrap();
    let mut unread = accept(&stopped);
    let written = fill(&mut full);

    let mut processes = Vec::new();
    for (node, place) in PLACES {
        let next = next_of(&lab, node, place, 2);
        upgrade(lab.take_proxy(node).unwrap());
        for stream in &mut kept {
            echo(stream, &vec![7; 300_000])
                .unwrap_or_else(|error| panic!("{node}: {error}\n{}", next.log_text()));
        }
        let (out, back) = if node == "one" { (5.0, 3.0) } else { (3.0, 5.0) };
        for (kind, count) in [("outbound_tunnel", out), ("inbound_tunnel", back)] {
            assert_eq!(moved(&lab, place, "taken", kind), count, "{node}, {kind}\n{}", next.log_text());
        }
        processes.push(next);
    }
    served.write_all(b"answer").unwrap();
    drop(served);
    assert_eq!(end_of(&mut half), End::Closed(b"answer".to_vec()));
    full.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    unread.read_to_end(&mut got).unwrap();
    assert!(got.len() == written && is_pattern(&got), "{} of {written} bytes", got.len());
    drop(unread);
    for mut stream in kept {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
    }
}

pub(crate) fn the_next_process_tells_of_the_end_of_what_a_tunnel_carried() {
    let mut lab = raise_spare();
    let kept = WAYS.map(|(pod, to)| open(&lab, pod, to).unwrap());
    let next = next_of(&lab, "one", "spare", 2);
    upgrade(lab.take_proxy("one").unwrap());
    for mut stream in kept {
        echo(&mut stream, &vec![7; 300_000]).unwrap_or_else(|error| panic!("{error}\n{}", next.log_text()));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
    }
    let bytes = (5 + 300_000).to_string();
    for direction in ["outbound", "inbound"] {
        let line =
            line_of(&next, &[("bytes_sent", &bytes), ("bytes_recv", &bytes), ("direction", direction)]);
        assert_eq!(line.level, "info", "{line:#?}");
    }
}

pub(crate) fn busy_tunnels_go_on_over_several_upgrades_and_no_new_connection_is_refused() {
    const UPGRADES: usize = 4;
    const STREAMS: usize = 4;
    let mut lab = raise_spare();
    let _logs = LogsOfFailure::of(&lab);
    let mut current = lab.take_proxy("one").unwrap();
    let ways = WAYS.map(|(pod, to)| (lab.pod(pod).unwrap(), to));
    let (over, echoed, opened) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
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
            let next = next_of(&lab, "one", ["spare", "one"][number % 2], number + 2);
            upgrade(std::mem::replace(&mut current, next));
            eventually("bytes and connections after the upgrade", || {
                let now = (echoed.load(Ordering::Relaxed), opened.load(Ordering::Relaxed));
                (now.0 > before.0 + (8 << 20) && now.1 > before.1 + 50).then_some(())
            });
        }
        drop(end);
    });
    let place = ["spare", "one"][(UPGRADES - 1) % 2];
    for kind in ["outbound_tunnel", "inbound_tunnel"] {
        assert!(moved(&lab, place, "taken", kind) >= STREAMS as f64, "{kind}\n{}", current.log_text());
    }
}

pub(crate) fn what_a_tunnel_carries_and_a_policy_forbids_meanwhile_is_cut() {
    let mut lab = raise_spare();
    let mut allowed = open(&lab, "client", SERVER).unwrap();
    let mut denied = open(&lab, "server", NEAR).unwrap();
    let next = next_of(&lab, "one", "spare", 2);
    let mut old = lab.take_proxy("one").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    let forbidden = format!("{}policies:\n{}", crate::handover::mesh(), deny("withdrawn", "server", "near"));
    change(&mut lab, &forbidden);
    crate::lifecycle::ends_well(&mut old);
    assert!(echo(&mut denied, b"more").is_err(), "{}", next.log_text());
    echo(&mut allowed, b"more").unwrap();
}

pub(crate) fn five_hundred_streams_move_and_each_is_the_one_it_was() {
    const EACH: usize = 250;
    let mut lab = raise_spare();
    let mut kept: Vec<TcpStream> = Vec::new();
    for (pod, to) in WAYS {
        kept.extend((0..EACH).map(|_| open(&lab, pod, to).unwrap()));
    }
    let next = next_of(&lab, "one", "spare", 2);
    upgrade(lab.take_proxy("one").unwrap());
    for (number, stream) in kept.iter_mut().enumerate() {
        echo(stream, format!("connection {number}").as_bytes()).unwrap();
    }
    for kind in ["outbound_tunnel", "inbound_tunnel"] {
        assert_eq!(moved(&lab, "spare", "taken", kind), EACH as f64, "{kind}\n{}", next.log_text());
    }
    let metrics = crate::metrics::metrics(&lab, "spare");
    let within = |le: &str| metrics.sum("warren_handover_stall_seconds_bucket", &[("le", le)]);
    println!(
        "stalls: {:?}",
        ["0.001", "0.005", "0.025", "0.05", "0.25", "1.0", "+Inf"].map(|le| (le, within(le)))
    );
}
