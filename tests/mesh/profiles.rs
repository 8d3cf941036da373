//! `/debug/pprof` of a running proxy, which runs under its own filter of system calls (docs/spec/controlplane.md 7.1).

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use flate2::read::GzDecoder;
use prost::Message;
use warren::protocols::pb::profile::{Profile, Sample};

use crate::{metrics::metrics, support::*};

/// Asks the proxy of node one. The answer's head is read; the body follows.
fn begin(lab: &Lab, path: &str) -> (u16, impl Read) {
    let mut stream = dial_from(lab.node("one").unwrap(), addr("127.0.0.1:15000")).unwrap();
    // HTTP/1.0, so that the body comes without chunks and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), stream)
}

fn ask(lab: &Lab, path: &str) -> (u16, Vec<u8>) {
    let (status, mut body) = begin(lab, path);
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap();
    (status, bytes)
}

fn ask_text(lab: &Lab, path: &str) -> (u16, String) {
    let (status, body) = ask(lab, path);
    (status, String::from_utf8(body).unwrap())
}

fn text(profile: &Profile, index: i64) -> &str {
    &profile.string_table[usize::try_from(index).unwrap()]
}

/// Whether a function whose name contains `part` is in the sample's stack.
fn has(profile: &Profile, sample: &Sample, part: &str) -> bool {
    let location = |id: &u64| profile.location.iter().find(|location| location.id == *id).unwrap();
    let mut lines = sample.location_id.iter().flat_map(|id| &location(id).line);
    lines.any(|line| {
        let function = profile.function.iter().find(|function| function.id == line.function_id).unwrap();
        text(profile, function.name).contains(part)
    })
}

/// The samples of a thread.
fn of_thread<'a>(profile: &'a Profile, thread: &str) -> Vec<&'a Sample> {
    let is_of = |sample: &&Sample| sample.label.iter().any(|label| text(profile, label.str) == thread);
    profile.sample.iter().filter(is_of).collect()
}

pub(crate) fn a_processor_profile_names_functions_of_every_shard_and_traffic_goes_on() {
    let lab = raise_with(MESH, &[("ZTUNNEL_WORKER_THREADS", "2")], Default::default());
    let (done, echoed) = (AtomicBool::new(false), AtomicU64::new(0));
    // So many that each shard has some.
    let streams: Vec<_> =
        (0..16).map(|i| open(&lab, "client", if i % 2 == 0 { SERVER } else { NEAR }).unwrap()).collect();
    let message = vec![7; 16 << 10];
    thread::scope(|scope| {
        for mut stream in streams {
            let (done, echoed, message) = (&done, &echoed, &message);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    // No signal may end a connection.
                    echo(&mut stream, message).unwrap();
                    echoed.fetch_add(1, Relaxed);
                }
            });
        }
        let (status, mut body) = begin(&lab, "/debug/pprof/profile?seconds=3&frequency=1000");
        assert_eq!(status, 200);
        let (status, said) = ask_text(&lab, "/debug/pprof/profile?seconds=1");
        assert_eq!((status, said.contains("already")), (409, true), "{said}");
        let before = echoed.load(Relaxed);
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes).unwrap();
        let meanwhile = echoed.load(Relaxed) - before;
        done.store(true, Relaxed);
        assert!(meanwhile > 0);
        let profile = Profile::decode(&*bytes).unwrap();
        for shard in ["shard-0", "shard-1"] {
            let samples = of_thread(&profile, shard);
            let count: i64 = samples.iter().map(|sample| sample.value[0]).sum();
            let time: i64 = samples.iter().map(|sample| sample.value[1]).sum();
            assert!(count > 0 && time > 0, "{shard}: {count} samples of {time} ns");
            // The way there and the work itself: stacks are whole.
            for part in ["warren::runtime::shard::", "warren::dataplane::", "warren::protocols::relay::"] {
                assert!(samples.iter().any(|sample| has(&profile, sample, part)), "{shard} without {part}");
            }
        }
    });
}

pub(crate) fn a_profile_whose_reader_goes_away_ends_and_the_next_one_is_taken() {
    let lab = raise(MESH);
    let (status, body) = begin(&lab, "/debug/pprof/profile?seconds=300");
    assert_eq!(status, 200);
    drop(body);
    let bytes = eventually("end of the profile that nobody reads", || {
        let (status, bytes) = ask(&lab, "/debug/pprof/profile?seconds=1");
        (status == 200).then_some(bytes)
    });
    Profile::decode(&*bytes).unwrap();
    let (status, said) = ask_text(&lab, "/debug/pprof/profile?frequency=1001");
    assert_eq!(status, 400);
    assert!(said.contains("1001"), "{said}");
}

pub(crate) fn a_heap_profile_shows_what_a_stopped_reader_holds_once_it_is_active() {
    let lab = raise(MESH);
    let switch = |query: &str| ask_text(&lab, &format!("/debug/pprof/heap/profiling{query}"));
    assert_eq!(switch(""), (200, "heap profiling active: false\n".to_owned()));
    let (status, said) = ask_text(&lab, "/debug/pprof/heap");
    assert_eq!(status, 500);
    assert!(said.contains("/debug/pprof/heap/profiling?activate=true"), "{said}");
    assert_eq!(switch("?activate=true"), (200, "heap profiling active: true\n".to_owned()));
    // An echo whose client does not read: the proxies hold what has come back.
    let mut streams: Vec<_> = (0..16).map(|_| open(&lab, "client", SERVER).unwrap()).collect();
    let chunk = vec![7; 64 << 10];
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let (profile, held) = eventually("memory of stopped readers in the profile", || {
        for stream in &mut streams {
            while stream.write(&chunk).is_ok() {}
        }
        let (status, body) = ask(&lab, "/debug/pprof/heap");
        assert_eq!(status, 200);
        let mut bytes = Vec::new();
        GzDecoder::new(&*body).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(&*bytes).unwrap();
        let is_held = |sample: &&Sample| has(&profile, sample, "warren::");
        let held: i64 = profile.sample.iter().filter(is_held).map(|sample| sample.value[1]).sum();
        (held > 4 << 20).then_some((profile, held))
    });
    let kinds: Vec<&str> = profile.sample_type.iter().map(|kind| text(&profile, kind.r#type)).collect();
    assert_eq!(kinds, ["inuse_objects", "inuse_space"], "{held}");
    assert!(profile.sample.iter().all(|sample| sample.value.iter().all(|value| *value > 0)), "{profile:?}");
    assert_eq!(switch("?activate=maybe").0, 400);
    assert_eq!(switch("?activate=false"), (200, "heap profiling active: false\n".to_owned()));
    assert_eq!(ask(&lab, "/debug/pprof/heap").0, 500);
    // What was allocated while it was on is freed while it is off.
    drop(streams);
    drop(open(&lab, "client", SERVER).unwrap());
}

pub(crate) fn a_pod_is_busy_by_whichever_path_its_connections_go() {
    let lab = raise(MESH);
    let busy = |lab: &Lab| {
        metrics(lab, "one").sum("warren_pod_cpu_seconds_total", &[("workload_pod", "default/client")])
    };
    let message = vec![7; 64 << 10];
    // Within the node, without a tunnel, and at last through one: a tunnel is busy by itself now and then.
    for to in [NEAR, BARE, SERVER] {
        let mut stream = open(&lab, "client", to).unwrap();
        let before = busy(&lab);
        eventually(&format!("busy time by connections to {to}"), || {
            (0..200).for_each(|_| echo(&mut stream, &message).unwrap());
            (busy(&lab) > before).then_some(())
        });
    }
}
