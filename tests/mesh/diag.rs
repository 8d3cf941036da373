//! What the kernel knows of a pod's connections (sock_diag(7)).

use std::io::{Read, Write};

use socket2::{Socket, Type};
use warren::lab::net::Namespace;

use crate::support::LIMIT;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// A request, for all there are.
const DUMP: u16 = 0x301;
const DONE: u16 = 3;
/// `nlmsghdr`, and with the `inet_diag_msg` behind it.
const HEAD: usize = 16;
const KNOWN: usize = HEAD + 72;
/// Established, and those whose peer has closed.
const OPEN: u32 = (1 << 1) | (1 << 8);
/// `tcpi_segs_in` of `tcp_info`.
const SEGMENTS_IN: usize = 140;

/// What is asked of a connection.
#[derive(Clone, Copy)]
enum Attribute {
    Info = 2,
    Congestion = 4,
}

/// The one end of an open connection that is asked about.
#[derive(Clone, Copy)]
pub(crate) enum Port {
    Own(u16),
    Peer(u16),
}

/// The congestion control that each open connection with `port` has, by name.
pub(crate) fn congestion(namespace: &Namespace, port: Port) -> Vec<String> {
    let name = |bytes: Vec<u8>| String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec());
    ask(namespace, port, Attribute::Congestion).into_iter().map(|bytes| name(bytes).unwrap()).collect()
}

/// How many segments the open connection with `port` has received.
pub(crate) fn segments_in(namespace: &Namespace, port: Port) -> u32 {
    let infos = ask(namespace, port, Attribute::Info);
    let [info] = infos.as_slice() else { panic!("{} connections with that port", infos.len()) };
    u32::from_ne_bytes(info[SEGMENTS_IN..SEGMENTS_IN + 4].try_into().unwrap())
}

fn ask(namespace: &Namespace, port: Port, attribute: Attribute) -> Vec<Vec<u8>> {
    let families = [libc::AF_INET, libc::AF_INET6];
    let ask = || families.into_iter().flat_map(|family| dump(family, port, attribute)).collect();
    namespace.run(ask).unwrap()
}

fn dump(family: i32, port: Port, attribute: Attribute) -> Vec<Vec<u8>> {
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
        1 << (attribute as u8 - 1),
    ]);
    request[20..24].copy_from_slice(&OPEN.to_ne_bytes());
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
                SOCK_DIAG_BY_FAMILY => found.extend(told(message, port, attribute)),
                kind => panic!("the kernel answered with a message of type {kind}"),
            }
            rest = after.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        }
    }
}

/// What an answer about a connection with `port` says.
fn told(message: &[u8], port: Port, attribute: Attribute) -> Option<Vec<u8>> {
    let big_endian = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let matches = match port {
        Port::Own(port) => big_endian(HEAD + 4) == port,
        Port::Peer(port) => big_endian(HEAD + 6) == port,
    };
    let mut rest = &message[KNOWN..];
    while matches && rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 0));
        if u16_at(rest, 2) == attribute as u16 {
            return Some(rest[4..length].to_vec());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}
