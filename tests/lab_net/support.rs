//! Two hosts and sockets on them.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use warren::lab::{
    hosts::{Hosts, Role},
    net::Namespace,
};

/// Nothing here takes longer unless it is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// How long to wait for something that must not come.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) const A: [&str; 2] = ["10.77.1.1", "fd00::1:1"];
pub(crate) const B: [&str; 2] = ["10.77.2.1", "fd00::2:1"];

/// `a` and `b`, in which the test may put rules.
pub(crate) struct Pair {
    pub hosts: Hosts,
    pub a: Namespace,
    pub b: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let mut hosts = Hosts::new("t").unwrap();
        let a = hosts.add(Role::Pod, "a", &ips(&A)).unwrap().namespace().clone();
        let b = hosts.add(Role::Pod, "b", &ips(&B)).unwrap().namespace().clone();
        Self { hosts, a, b }
    }
}

pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Listens on all addresses of both families.
pub(crate) fn listen(namespace: &Namespace, port: u16) -> TcpListener {
    let listen = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&at("::", port).into())?;
        socket.listen(16)?;
        std::io::Result::Ok(TcpListener::from(socket))
    };
    namespace.run(listen).unwrap().unwrap()
}

/// The next connection, failing the test if there is none in time.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    try_accept(listener, LIMIT).expect("a connection")
}

pub(crate) fn try_accept(listener: &TcpListener, limit: Duration) -> Option<TcpStream> {
    let socket = socket2::SockRef::from(listener);
    // On Linux this bounds accept too.
    socket.set_read_timeout(Some(limit)).unwrap();
    let (stream, _) = listener.accept().ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    Some(stream)
}

/// Connects from `namespace`, if it may with a mark and a source address not its own.
pub(crate) fn connect(
    namespace: &Namespace,
    to: SocketAddr,
    mark: Option<u32>,
    source: Option<IpAddr>,
) -> std::io::Result<TcpStream> {
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        match source {
            Some(IpAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
            Some(IpAddr::V6(_)) => socket.set_ip_transparent_v6(true)?,
            None => {}
        }
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&to.into(), LIMIT)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    };
    namespace.run(connect).unwrap()
}

/// Both ends say something to each other.
pub(crate) fn talk(mut a: &TcpStream, mut b: &TcpStream) {
    let mut buffer = [0; 5];
    a.write_all(b"hello").unwrap();
    b.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
    b.write_all(b"there").unwrap();
    a.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"there");
}

/// Where an accepted connection was going, as the proxy asks the kernel.
pub(crate) fn original_destination(stream: &TcpStream) -> SocketAddr {
    let socket = socket2::SockRef::from(stream);
    let destination = socket.original_dst_v4().or_else(|_| socket.original_dst_v6()).unwrap();
    canonical(destination.as_socket().unwrap())
}

pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Lets time pass that is itself under test.
pub(crate) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

pub(crate) fn peer(stream: &TcpStream) -> SocketAddr {
    canonical(stream.peer_addr().unwrap())
}
