//! Live connections outlive a restart in place: a keeper holds them while no proxy of the node runs.

use std::{
    fs,
    net::{Shutdown, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use warren::lab::{process::Process, testbed::Launch, testing::program};

use crate::{
    handover::{OnDrop, moved, next_of, raise_spare, stream_until, upgrade},
    lifecycle::ends_well,
    logs::line_of,
    support::*,
};

/// Who connects to whom, and the kind of the connection at node one.
const WAYS: [(&str, &str, &str); 5] = [
    ("client", BARE, "outbound"),
    ("bare", NEAR, "plaintext"),
    ("client", NEAR, "local"),
    ("client", SERVER, "outbound_tunnel"),
    ("server", NEAR, "inbound_tunnel"),
];

/// The time without a proxy.
const NOBODY: Duration = Duration::from_secs(2);

fn raise_patient(settings: &[(&str, &str)]) -> Lab {
    let settings = [&[("CONNECTION_TERMINATION_DEADLINE", "60s")], settings].concat();
    raise_with(MESH, &settings, Default::default())
}

/// A keeper of node one that holds connections for so long.
fn keeper(lab: &Lab, hold: &str) -> Process {
    keeper_as(lab, Launch { args: vec!["keeper".into()], ..launch() }.env("WARREN_KEEPER_HOLD", hold))
}

fn keeper_as(lab: &Lab, launch: Launch) -> Process {
    let keeper = lab.launch("one", &Launch { log: Some("keeper-one".into()), ..launch }).unwrap();
    eventually("socket of the keeper", || lab.directory().join("keeper-one.sock").exists().then_some(()));
    keeper
}

/// A keeper that a shell starts, which gets its path as `$0`.
fn keeper_by(script: &str) -> Launch {
    let binary = program("warren").unwrap().to_str().unwrap().to_owned();
    Launch { args: vec!["-c".into(), script.into(), binary], ..Launch::new(PathBuf::from("/bin/sh")) }
}

fn open_each(lab: &Lab) -> Vec<TcpStream> {
    WAYS.iter().map(|(pod, to, _)| open(lab, pod, to).unwrap()).collect()
}

/// Waits for a line of a log.
fn told(process: &Process, what: &str) {
    eventually(what, || process.log_text().contains(what).then_some(()));
}

/// Ends the keeper, which has counted so.
fn ends_with(mut keeper: Process, counts: &str) {
    keeper.signal(libc::SIGTERM).unwrap();
    ends_well(&mut keeper);
    assert!(keeper.log_text().contains(counts), "{}", keeper.log_text());
}

pub(crate) fn live_connections_of_each_kind_outlive_a_restart_in_place() {
    let mut lab = raise_patient(&[]);
    let mut kept = open_each(&lab);
    let keeper = keeper(&lab, "15s");
    upgrade(lab.take_proxy("one").unwrap());
    thread::park_timeout(NOBODY);
    println!("the keeper holds {}: {:?}", kept.len(), keeper.usage().unwrap());
    let next = next_of(&lab, "one", "one", 2);
    for (stream, (_, _, kind)) in kept.iter_mut().zip(WAYS) {
        echo(stream, &vec![7; 300_000])
            .unwrap_or_else(|e| panic!("{kind}: {e}\n{}\n{}", keeper.log_text(), next.log_text()));
    }
    for (_, _, kind) in WAYS {
        assert_eq!(moved(&lab, "one", "taken", kind), 1.0, "{kind}\n{}", next.log_text());
    }
    // The next process tells of the end, with all bytes and the time since the beginning.
    for mut stream in kept {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), End::Closed(Vec::new()));
    }
    let bytes = (5 + 300_000).to_string();
    for direction in ["outbound", "inbound"] {
        let line =
            line_of(&next, &[("bytes_sent", &bytes), ("bytes_recv", &bytes), ("direction", direction)]);
        assert_eq!(line.level, "info", "{line:#?}");
    }
    ends_with(keeper, "taken=5 given=5 closed=0");
}

pub(crate) fn busy_connections_of_each_kind_outlive_several_restarts_in_place() {
    const RESTARTS: usize = 3;
    let mut lab = raise_patient(&[]);
    let keeper = keeper(&lab, "15s");
    let mut current = lab.take_proxy("one").ok();
    let ways = WAYS.map(|(pod, to, _)| (lab.pod(pod).unwrap(), to));
    let (over, echoed) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (seed, (from, to)) in ways.into_iter().enumerate() {
            let (over, echoed) = (&over, &echoed);
            scope.spawn(move || stream_until(over, (from, to), seed as u8, echoed));
        }
        // Whatever fails here ends the others, too.
        let end = OnDrop(&over);
        for number in 0..RESTARTS {
            eventually("bytes", || {
                (echoed.load(Ordering::Relaxed) > (number as u64 + 1) << 22).then_some(())
            });
            upgrade(current.take().unwrap());
            current = Some(next_of(&lab, "one", "one", number + 2));
            let before = echoed.load(Ordering::Relaxed);
            eventually("bytes after the restart", || {
                (echoed.load(Ordering::Relaxed) > before + (8 << 20)).then_some(())
            });
        }
        drop(end);
    });
    ends_with(keeper, "closed=0");
}

pub(crate) fn a_thousand_held_connections_cost_the_keeper_little_memory() {
    const STREAMS: usize = 1_000;
    /// What the keeper may have more, in bytes.
    const GROWN: u64 = 16 << 20;
    let mut lab = raise_patient(&[]);
    let ways = WAYS.iter().cycle().take(STREAMS);
    let mut kept: Vec<TcpStream> = ways.map(|(pod, to, _)| open(&lab, pod, to).unwrap()).collect();
    let keeper = keeper(&lab, "20s");
    let before = keeper.usage().unwrap().resident_bytes;
    upgrade(lab.take_proxy("one").unwrap());
    let held = keeper.usage().unwrap().peak_bytes;
    println!("the keeper had {before} bytes, and at most {held} with {STREAMS} connections");
    assert!(held < before + GROWN, "{before} and then {held}");
    let next = next_of(&lab, "one", "one", 2);
    for stream in &mut kept {
        echo(stream, b"more").unwrap_or_else(|e| panic!("{e}\n{}\n{}", keeper.log_text(), next.log_text()));
    }
    ends_with(keeper, "taken=1000 given=1000 closed=0");
}

pub(crate) fn what_no_proxy_takes_in_time_is_reset_and_counted() {
    let mut lab = raise_patient(&[]);
    let kept = open_each(&lab);
    let keeper = keeper(&lab, "1s");
    upgrade(lab.take_proxy("one").unwrap());
    told(&keeper, "nobody has taken them in time");
    for (mut stream, (_, _, kind)) in kept.into_iter().zip(WAYS) {
        let end = end_of(&mut stream);
        // The end of a stream is told by the other proxy, whose tunnel was reset.
        assert!(end == End::Reset || kind == "inbound_tunnel" && is_turned_away(&end), "{kind}: {end:?}");
    }
    ends_with(keeper, "taken=5 given=0 closed=5");
    // Nobody misses the keeper.
    let _next = next_of(&lab, "one", "one", 2);
    open_each(&lab);
}

pub(crate) fn a_keeper_that_is_told_to_stop_hands_on_what_it_holds_and_takes_nothing_more() {
    let mut lab = raise_spare();
    let mut kept = open_each(&lab);
    let mut keeper = keeper(&lab, "15s");
    upgrade(lab.take_proxy("one").unwrap());
    keeper.signal(libc::SIGTERM).unwrap();
    told(&keeper, "told to stop");
    let next = next_of(&lab, "one", "one", 2);
    kept.iter_mut().for_each(|stream| echo(stream, b"more").unwrap());
    ends_well(&mut keeper);
    assert!(keeper.log_text().contains("taken=5 given=5 closed=0"), "{}", keeper.log_text());
    // Where there is a next proxy, the keeper is asked for nothing.
    let idle = self::keeper(&lab, "15s");
    let _third = next_of(&lab, "one", "spare", 3);
    upgrade(next);
    kept.iter_mut().for_each(|stream| echo(stream, b"more").unwrap());
    ends_with(idle, "taken=0 given=0 closed=0");
}

pub(crate) fn a_keeper_that_is_killed_costs_what_it_holds_and_nothing_else() {
    let mut lab = raise_patient(&[]);
    let kept = open_each(&lab);
    let mut keeper = keeper(&lab, "15s");
    let mut old = lab.take_proxy("one").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    ends_well(&mut old);
    keeper.kill().unwrap();
    for mut stream in kept {
        let end = end_of(&mut stream);
        assert!(is_turned_away(&end), "{end:?}");
    }
    // The proxy that is gone has counted what it had given.
    let given =
        |line: &str| line.split_once("given=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let given: Vec<u64> = old.log_text().lines().filter_map(given).collect();
    assert_eq!(given.iter().sum::<u64>(), 5, "{}", old.log_text());
    let _next = next_of(&lab, "one", "one", 2);
    open_each(&lab);
}

pub(crate) fn what_a_keeper_without_descriptors_refuses_stays_where_it_was() {
    const STREAMS: usize = 30;
    let mut lab = raise_spare();
    let mut kept: Vec<TcpStream> = (0..STREAMS).map(|_| open(&lab, "client", NEAR).unwrap()).collect();
    let keeper = keeper_as(&lab, keeper_by("ulimit -n 60 && exec \"$0\" keeper"));
    let mut old = lab.take_proxy("one").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    told(&old, "the keeper has no descriptors left");
    // Some are held, and the others are served.
    let next = next_of(&lab, "one", "spare", 2);
    ends_well(&mut old);
    kept.iter_mut().for_each(|stream| echo(stream, b"more").unwrap());
    assert_eq!(moved(&lab, "spare", "taken", "local"), STREAMS as f64, "{}", next.log_text());
    ends_with(keeper, "closed=0");
}

pub(crate) fn a_keeper_of_another_user_is_given_nothing() {
    let path = std::env::temp_dir().join(format!("warren-keeper-{}.sock", std::process::id()));
    let socket = path.to_str().unwrap();
    let mut lab = raise_patient(&[("WARREN_KEEPER_UDS", socket)]);
    let mut kept = open_each(&lab);
    let launch = keeper_by("exec setpriv --reuid 65534 --clear-groups \"$0\" keeper");
    let launch = Launch { log: Some("keeper-one".into()), ..launch }.env("WARREN_KEEPER_UDS", socket);
    let keeper = lab.launch("one", &launch).unwrap();
    eventually("socket of the keeper", || path.exists().then_some(()));
    // Even if its socket lets everybody in.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let mut old = lab.take_proxy("one").unwrap();
    old.signal(libc::SIGTERM).unwrap();
    told(&old, "the process at the other end belongs to user 65534, and this one to user 0");
    kept.iter_mut().for_each(|stream| echo(stream, b"more").unwrap());
    ends_with(keeper, "taken=0 given=0 closed=0");
    fs::remove_file(&path).unwrap();
}

pub(crate) fn every_thread_of_the_keeper_has_no_privilege() {
    let lab = raise(MESH);
    let keeper = keeper(&lab, "15s");
    let pid = keeper.outer_pid().unwrap();
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap().trim().to_owned()
        };
        assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2".into(), "1".into()));
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        threads += 1;
    }
    assert!(threads >= 1);
    println!("the keeper that holds nothing: {:?}", keeper.usage().unwrap());
}
