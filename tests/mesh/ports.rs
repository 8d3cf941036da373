//! The ports of connections that the proxy makes to applications in their clients' names.

use std::{fs, net::TcpStream};

use socket2::{Domain, Socket, Type};
use warren::sys::limits::raise_open_files;

use crate::support::*;

pub(crate) fn fifteen_hundred_plaintext_connections_of_one_client_are_all_served() {
    raise_open_files().unwrap();
    let lab = raise(MESH);
    drop(open_at_last(&lab, "bare", SERVER));
    let mut live: Vec<TcpStream> = Vec::new();
    for n in 0..1500 {
        // A client whose port the proxy has taken hangs.
        live.push(open(&lab, "bare", SERVER).unwrap_or_else(|error| panic!("connection {n}: {error}")));
    }
    for stream in &mut live {
        echo(stream, b"still here").unwrap();
    }
}

pub(crate) fn connections_to_an_application_leave_its_ports_to_it() {
    const FIRST: u16 = 50050;
    const LAST: u16 = 50057;
    let lab = raise(MESH);
    let server = lab.pod("server").unwrap();
    let few = || fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{FIRST} {LAST}"));
    server.run(few).unwrap().unwrap();
    let mut live: Vec<TcpStream> = Vec::new();
    for from in ["bare", "bare", "bare", "client", "client", "client"] {
        live.push(open_at_last(&lab, from, SERVER));
    }
    // An application that does not even reuse addresses.
    let can_listen = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&addr(&format!("0.0.0.0:{port}")).into()).and_then(|()| socket.listen(1)).is_ok()
    };
    let taken = server.run(|| (FIRST..=LAST).filter(|port| !can_listen(*port)).collect::<Vec<_>>()).unwrap();
    assert_eq!(taken, Vec::<u16>::new());
    for stream in &mut live {
        echo(stream, b"still here").unwrap();
    }
}
