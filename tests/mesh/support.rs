//! Raising the mesh, connections of its pods, and waiting for what must come.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use warren::lab::{
    control::{ca::CaOptions, mesh_file::Mesh},
    embedded::Embedded,
    net::Namespace,
    testbed::{Launch, Options, Testbed},
    testing::{program, scratch},
    topology::Topology,
};

/// Two nodes under two proxies.
pub(crate) type Lab = Testbed<Embedded>;

/// Nothing here takes longer unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(25);
/// How often to look for what must come.
const LOOK: Duration = Duration::from_millis(10);

/// `client` and `near` on node one, `server` on node two, all captured, each its own service account; `bare` is on
/// node two and not captured. All but the client echo on 9000.
pub(crate) const MESH: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, run: [echo 9000, http 8080]}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, run: [echo 9000, http 8080]}
  - {name: bare, serviceAccount: bare, node: two, ip: 10.77.2.9, captured: false, run: [echo 9000, http 8080]}
";
pub(crate) const NEAR: &str = "10.77.1.2:9000";
pub(crate) const SERVER: &str = "10.77.2.1:9000";
pub(crate) const BARE: &str = "10.77.2.9:9000";

pub(crate) fn raise(mesh: &str) -> Lab {
    raise_with(mesh, &[], CaOptions::default())
}

/// Raises a mesh whose proxies get further settings.
pub(crate) fn raise_with(mesh: &str, settings: &[(&str, &str)], ca: CaOptions) -> Lab {
    let launch = settings.iter().fold(launch(), |launch, (name, value)| launch.env(*name, *value));
    raise_as(mesh, Some(launch), ca)
}

/// The proxy under test.
pub(crate) fn launch() -> Launch {
    Launch::new(program("warren").unwrap())
}

/// Raises a mesh with `proxy` on each node, or without any.
pub(crate) fn raise_as(mesh: &str, proxy: Option<Launch>, ca: CaOptions) -> Lab {
    let mesh = Mesh::parse(mesh).unwrap_or_else(|error| panic!("{error}"));
    let options = Options { id: "m".to_owned(), directory: scratch(), proxy, ready_limit: LIMIT };
    let topology = Topology::of(&mesh, false).unwrap();
    Testbed::raise(topology, Embedded::new(mesh).ca(ca), options).unwrap_or_else(|error| panic!("{error}"))
}

/// Makes the mesh that of `text`, and waits until the proxies have answered.
pub(crate) fn change(lab: &mut Lab, text: &str) {
    let mesh = Mesh::parse(text).unwrap_or_else(|error| panic!("{error}"));
    lab.update(mesh, false).unwrap_or_else(|error| panic!("{error}"));
    lab.services().settle(LIMIT).unwrap();
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Looks until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "within {LIMIT:?} there was no {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Connects from inside `namespace`.
pub(crate) fn dial_from(namespace: &Namespace, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = namespace.run(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap()?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from a pod.
pub(crate) fn dial(lab: &Lab, pod: &str, to: &str) -> io::Result<TcpStream> {
    dial_from(lab.pod(pod).unwrap(), addr(to))
}

/// Connects from a pod, and has one message echoed.
pub(crate) fn open(lab: &Lab, pod: &str, to: &str) -> io::Result<TcpStream> {
    let mut stream = dial(lab, pod, to)?;
    echo(&mut stream, b"hello")?;
    Ok(stream)
}

/// Connects and has one message echoed, as often as it takes.
pub(crate) fn open_at_last(lab: &Lab, pod: &str, to: &str) -> TcpStream {
    eventually(&format!("connection from {pod} to {to}"), || open(lab, pod, to).ok())
}

/// Sends `text` and reads it back.
pub(crate) fn echo(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    if back == text { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "echoed wrongly")) }
}

/// How a connection ended that somebody asked something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was never there.
    Refused,
    /// It was ended by the other side, after these bytes.
    Closed(Vec<u8>),
    /// It was reset.
    Reset,
}

/// Reads until the other side ends `stream`. Panics if it does not.
pub(crate) fn end_of(stream: &mut TcpStream) -> End {
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Ok(_) => End::Closed(answer),
        Err(error) => {
            let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            assert!(!timed_out, "neither data nor an end within {LIMIT:?}");
            End::Reset
        }
    }
}

/// Connects, asks something, and waits for the end.
pub(crate) fn ask(namespace: &Namespace, to: SocketAddr) -> End {
    let Ok(mut stream) = dial_from(namespace, to) else { return End::Refused };
    // A reset in between shows in what is read.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    end_of(&mut stream)
}

/// Whether nothing of an application came back.
pub(crate) fn is_turned_away(end: &End) -> bool {
    match end {
        End::Refused | End::Reset => true,
        End::Closed(answer) => answer.is_empty(),
    }
}

/// Listens in `namespace` on all addresses, alone on its port.
pub(crate) fn listen(namespace: &Namespace, port: u16) -> TcpListener {
    let listen = || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        // Past connections of the same port are no hindrance; another listener still is.
        socket.set_reuse_address(true)?;
        socket.bind(&addr(&format!("[::]:{port}")).into())?;
        socket.listen(128)?;
        io::Result::Ok(TcpListener::from(socket))
    };
    namespace.run(listen).unwrap().unwrap()
}

/// The next connection of a listener.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    // On Linux this bounds accept too.
    socket2::SockRef::from(listener).set_read_timeout(Some(LIMIT)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}
