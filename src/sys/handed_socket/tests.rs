//! What is no connected TCP socket is refused by name, and stays usable for its owner.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixStream,
};

use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn refused(fd: impl Into<OwnedFd>) -> String {
    connected_tcp(fd.into(), &NetNs::current().unwrap()).unwrap_err().to_string()
}

#[test]
fn what_is_no_connected_tcp_socket_is_named() {
    let (read, write) = io::pipe().unwrap();
    for no_tcp in [
        File::open("/proc/self/status").unwrap().into(),
        OwnedFd::from(read),
        OwnedFd::from(write),
        UnixStream::pair().unwrap().0.into(),
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        File::open("/proc/self/ns/net").unwrap().into(),
    ] {
        assert_eq!(refused(no_tcp), "a descriptor that is no TCP socket");
    }
    assert_eq!(refused(TcpListener::bind("127.0.0.1:0").unwrap()), "a socket that listens");
    let fresh = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    assert_eq!(refused(OwnedFd::from(fresh)), "a socket that is not connected");
}

#[test]
fn a_connected_socket_is_taken_or_refused_and_goes_on_in_any_case() {
    let (mut near, mut far) = pair();
    match connected_tcp(near.try_clone().unwrap().into(), &NetNs::current().unwrap()) {
        Ok(mut taken) => taken.write_all(b"taken").unwrap(),
        // Whoever may not administer the network learns nothing of namespaces.
        Err(BadSocket::Unknown(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            near.write_all(b"taken").unwrap();
        }
        Err(error) => panic!("{error}"),
    }
    let mut got = [0; 5];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"taken");
}
