//! How the end of a connection travels.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    diag::{Port, segments_in},
    lifecycle::{ends_well, terminate},
    metrics::{all_closed, metrics},
    support::*,
};

pub(crate) fn the_last_bytes_of_an_answer_and_its_end_arrive_in_one_segment() {
    let lab = raise(MESH);
    let namespace = lab.pod("client").unwrap();
    drop(open_at_last(&lab, "client", SERVER));
    let listener = listen(lab.pod("server").unwrap(), 9100);
    let mut client = dial(&lab, "client", "10.77.2.1:9100").unwrap();
    client.write_all(b"question").unwrap();
    let mut server = accept(&listener);
    server.read_exact(&mut [0; 8]).unwrap();
    let port = Port::Own(client.local_addr().unwrap().port());
    let before = segments_in(namespace, port);
    // Held back by the kernel until the end is there, too: the proxy reads both at once.
    SockRef::from(&server).send_with_flags(b"answer", libc::MSG_MORE).unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), segments_in(namespace, port) - before), ("answer", 1));
}

/// Connections that are aborted while their application does not read.
const ABORTED: usize = 150;

/// Uploads from a pod that are aborted. Returns the application's ends, which nobody reads.
fn aborted(lab: &Lab, from: &str, listener: &TcpListener, to: &str, count: usize) -> Vec<TcpStream> {
    let upload = |_| {
        let mut client = dial(lab, from, to).unwrap();
        client.write_all(b"upload").unwrap();
        let mut server = accept(listener);
        server.read_exact(&mut [0; 6]).unwrap();
        client.set_nonblocking(true).unwrap();
        // More than all buffers on the way hold.
        for _ in 0..3 {
            if client.write(&vec![1; 1 << 20]).is_err() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        server
    };
    (0..count).map(upload).collect()
}

fn all_over(lab: &Lab) {
    for node in ["one", "two"] {
        all_closed(lab, node);
    }
}

pub(crate) fn aborted_uploads_to_an_application_that_reads_nothing_leave_nothing_behind() {
    let settings = [("CONNECTION_TERMINATION_DEADLINE", "600s")];
    let mut lab = raise_with(MESH, &settings, Default::default());
    let server = (listen(lab.pod("server").unwrap(), 9100), "10.77.2.1:9100");
    let near = (listen(lab.pod("near").unwrap(), 9100), "10.77.1.2:9100");
    for (listener, _) in [&server, &near] {
        SockRef::from(listener).set_recv_buffer_size(4096).unwrap();
    }
    for (from, (listener, to)) in [("client", &server), ("client", &near), ("bare", &server)] {
        aborted(&lab, from, listener, to, 1);
    }
    all_over(&lab);
    let files = |lab: &Lab| ["one", "two"].map(|node| metrics(lab, node).sum("process_open_fds", &[]));
    let before = files(&lab);
    let mut held = Vec::new();
    for (from, (listener, to)) in [("bare", &server), ("client", &server), ("client", &near)] {
        held.extend(aborted(&lab, from, listener, to, ABORTED));
        // The applications neither read nor close meanwhile.
        all_over(&lab);
        eventually("end of the descriptors", || {
            files(&lab).iter().zip(before).all(|(now, before)| *now <= before + 10.0).then_some(())
        });
    }
    held.extend(aborted(&lab, "client", &server.0, server.1, 20));
    held.extend(aborted(&lab, "bare", &server.0, server.1, 20));
    // An order to stop does not wait for the applications either.
    terminate(&mut lab).iter_mut().for_each(ends_well);
}

/// How long connection tracking keeps a half-closed connection here; by default 60 and 120 s. The kernel may be 2 s late
/// with a probe that is due after 20 s.
const TRACKED_FOR: Duration = Duration::from_secs(28);

/// An answer that takes longer than connection tracking waits.
pub(crate) fn a_half_closed_connection_outlives_what_connection_tracking_waits() {
    let lab = raise(MESH);
    for pod in ["client", "near", "server", "bare"] {
        let forget = || {
            for state in ["close_wait", "fin_wait"] {
                let path = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
                fs::write(path, TRACKED_FOR.as_secs().to_string()).unwrap();
            }
        };
        lab.pod(pod).unwrap().run(forget).unwrap();
    }
    // By a tunnel, within the node, to and from a pod outside the mesh.
    let ways = [
        ("client", "server", "10.77.2.1"),
        ("client", "near", "10.77.1.2"),
        ("client", "bare", "10.77.2.9"),
        ("bare", "server", "10.77.2.1"),
    ];
    let mut asked = Vec::new();
    for (number, (from, to, ip)) in ways.into_iter().enumerate() {
        let port = 7000 + number as u16;
        let listener = listen(lab.pod(to).unwrap(), port);
        let mut client = dial(&lab, from, &format!("{ip}:{port}")).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut server = accept(&listener);
        assert_eq!(end_of(&mut server), End::Closed(b"question".to_vec()));
        asked.push((from, to, client, server));
    }
    // One probe alone does not do.
    let until = Instant::now() + TRACKED_FOR * 2;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
    for (from, to, mut client, mut server) in asked {
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(end_of(&mut client), End::Closed(b"answer".to_vec()), "{from} to {to}");
    }
}
