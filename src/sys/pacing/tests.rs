use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
};

use socket2::{Domain, Type};

use super::*;

fn congestion(socket: &impl AsFd) -> String {
    let name = SockRef::from(socket).tcp_congestion().unwrap();
    String::from_utf8(name.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

fn connected(scope: PathScope) -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    scope.unpace(&socket);
    socket.connect(&to.into()).unwrap();
    (listener, socket.into())
}

/// Whether the congestion control `name` is available. A module is loaded when it is first asked for.
fn available(name: &str) -> bool {
    let names = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
    names.split_whitespace().any(|available| available == name)
}

#[test]
fn connections_begin_without_pacing() {
    let (_listener, within) = connected(PathScope::Host);
    assert_eq!(congestion(&within), "reno");
    let (_listener, to_others) = connected(PathScope::Network);
    let usual = congestion(&Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    assert_eq!(congestion(&to_others), if available("cubic") { "cubic".to_owned() } else { usual });
}

#[test]
fn a_handshake_has_a_round_trip_and_a_socket_without_one_has_none() {
    let (_listener, stream) = connected(PathScope::Network);
    let took = round_trip(&stream).unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(round_trip(&Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()), None);
}

#[test]
fn only_what_is_far_is_paced_again() {
    for (scope, near, paced) in [
        (PathScope::Network, Duration::from_secs(10), false),
        (PathScope::Network, Duration::from_nanos(1), true),
        (PathScope::Host, Duration::from_nanos(1), false),
    ] {
        let (_listener, stream) = connected(scope);
        let before = congestion(&stream);
        scope.settle(&stream, near);
        let now = congestion(&stream);
        assert_eq!(now == before, !paced || !available("bbr"), "{scope:?} {near:?}: {before}, {now}");
    }
}

#[test]
fn what_is_paced_by_default_is_told_from_what_is_not() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_congestion(b"reno").unwrap();
    assert!(!is_paced(&socket));
    if available("bbr") {
        socket.set_tcp_congestion(b"bbr").unwrap();
        assert!(is_paced(&socket));
    }
}
