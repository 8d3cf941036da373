//! How the end of a connection travels.

use std::{
    io::{Read, Write},
    net::Shutdown,
};

use socket2::SockRef;

use crate::{
    diag::{Port, segments_in},
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
