//! Which congestion control the sockets in pods have, asked of the kernel (sock_diag(7)).

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
};

use socket2::{Socket, Type};
use warren::lab::{control::ca::CaOptions, net::Namespace};

use crate::support::*;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// A request, for all there are.
const DUMP: u16 = 0x301;
const DONE: u16 = 3;
/// `nlmsghdr`, and with the `inet_diag_msg` behind it.
const HEAD: usize = 16;
const KNOWN: usize = HEAD + 72;
/// `INET_DIAG_CONG`, and its bit in a request.
const CONGESTION: u16 = 4;
const WITH_CONGESTION: u8 = 1 << (CONGESTION - 1);
const ESTABLISHED: u32 = 1 << 1;

/// The one end of an established connection whose congestion control is asked for.
#[derive(Clone, Copy)]
enum Port {
    Own(u16),
    Peer(u16),
}

/// What the established connections with `port` have, by name.
fn congestion(namespace: &Namespace, port: Port) -> BTreeSet<String> {
    let ask = || [libc::AF_INET, libc::AF_INET6].into_iter().flat_map(|family| dump(family, port)).collect();
    namespace.run(ask).unwrap()
}

fn dump(family: i32, port: Port) -> Vec<String> {
    let socket = Socket::new(libc::AF_NETLINK.into(), Type::RAW, Some(NETLINK_SOCK_DIAG.into())).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut request = vec![0; HEAD + 56];
    let length = u32::try_from(request.len()).unwrap();
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[16..19].copy_from_slice(&[
        u8::try_from(family).unwrap(),
        u8::try_from(libc::IPPROTO_TCP).unwrap(),
        WITH_CONGESTION,
    ]);
    request[20..24].copy_from_slice(&ESTABLISHED.to_ne_bytes());
    (&socket).write_all(&request).unwrap();
    let mut found = Vec::new();
    let mut answer = vec![0; 1 << 16];
    loop {
        let length = (&socket).read(&mut answer).unwrap();
        let mut rest = &answer[..length];
        while rest.len() >= HEAD {
            let length = usize::try_from(u32::from_ne_bytes(rest[..4].try_into().unwrap())).unwrap();
            let (message, after) = rest.split_at(length);
            match u16_at(message, 4) {
                DONE => return found,
                SOCK_DIAG_BY_FAMILY => found.extend(named(message, port)),
                kind => panic!("the kernel answered with a message of type {kind}"),
            }
            rest = after.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        }
    }
}

/// The name in an answer about a connection with `port`.
fn named(message: &[u8], port: Port) -> Option<String> {
    let big_endian = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let matches = match port {
        Port::Own(port) => big_endian(HEAD + 4) == port,
        Port::Peer(port) => big_endian(HEAD + 6) == port,
    };
    let mut rest = &message[KNOWN..];
    while matches && rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 0));
        if u16_at(rest, 2) == CONGESTION {
            let name = rest[4..length].split(|byte| *byte == 0).next().unwrap();
            return Some(String::from_utf8(name.to_vec()).unwrap());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

pub fn tunnels_to_near_peers_are_not_paced_and_those_to_far_ones_are_as_the_host_has_it() {
    // No handshake takes as long as the first, and all take as long as the second.
    for (limit, is_near) in [("1s", true), ("1us", false)] {
        let lab = raise_with(MESH, &[("WARREN_UNPACED_RTT", limit)], CaOptions::default());
        let (client, server) = (lab.pod("client").unwrap(), lab.pod("server").unwrap());
        let usual = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        let usual = client.run(usual).unwrap().trim().to_owned();
        let unless_paced =
            |name: &str| BTreeSet::from([if usual == "bbr" { name } else { &usual }.to_owned()]);
        let _open = open_at_last(&lab, "client", SERVER);
        let tunnel = unless_paced(if is_near { "cubic" } else { "bbr" });
        for (what, namespace, port, expected) in [
            ("the tunnel's client", client, Port::Peer(15008), &tunnel),
            ("the tunnel's server", server, Port::Own(15008), &tunnel),
            ("the connection from the client", client, Port::Own(15001), &unless_paced("reno")),
            ("the connection to the application", server, Port::Peer(9000), &unless_paced("reno")),
        ] {
            assert_eq!(congestion(namespace, port), *expected, "{what}, limit {limit}, usually {usual}");
        }
    }
}
