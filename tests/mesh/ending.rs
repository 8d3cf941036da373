//! How the end of a connection travels.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
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
