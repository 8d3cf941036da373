//! SOCKS clients of a pod, held to docs/spec/dataplane.md 3.5. The client is written here.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Instant,
};

use hickory_proto::rr::RecordType;

use crate::{
    metrics::{all_closed, metrics},
    names::*,
    support::*,
};

const SOCKS: &str = "127.0.0.1:15080";
const SETTINGS: [(&str, &str); 1] = [("UNSTABLE_ENABLE_SOCKS5", "true")];

/// The address of a request.
enum To<'a> {
    Addr(&'a str),
    Host(&'a str, u16),
}

/// Connects from a pod to the pod's SOCKS proxy.
fn socks(lab: &Lab, pod: &str) -> TcpStream {
    dial(lab, pod, SOCKS).unwrap()
}

/// Asks for `to`. The error is the code of the reply.
fn request(lab: &Lab, pod: &str, to: &To<'_>) -> Result<TcpStream, u8> {
    let mut stream = socks(lab, pod);
    stream.write_all(&[5, 1, 0]).unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).unwrap();
    assert_eq!(method, [5, 0]);
    let (kind, bytes, port) = match to {
        To::Host(name, port) => (3, [&[name.len() as u8], name.as_bytes()].concat(), *port),
        To::Addr(text) => match addr(text) {
            std::net::SocketAddr::V4(to) => (1, to.ip().octets().to_vec(), to.port()),
            std::net::SocketAddr::V6(to) => (4, to.ip().octets().to_vec(), to.port()),
        },
    };
    stream.write_all(&[&[5, 1, 0, kind], &bytes[..], &port.to_be_bytes()].concat()).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], &reply[2..]), (5, &[0, 1, 0, 0, 0, 0, 0, 0][..]));
    if reply[1] == 0 { Ok(stream) } else { Err(reply[1]) }
}

/// Sends `said` to the proxy. What comes back until the proxy ends the connection.
fn says(lab: &Lab, said: &[u8]) -> Vec<u8> {
    let mut stream = socks(lab, "client");
    stream.write_all(said).unwrap();
    match end_of(&mut stream) {
        End::Closed(heard) => heard,
        other => panic!("{said:?}: {other:?}"),
    }
}

pub(crate) fn a_socks_client_reaches_what_a_redirected_one_does_by_the_same_way() {
    let lab = raise_with(MESH, &SETTINGS, Default::default());
    for to in [SERVER, NEAR, BARE] {
        let mut stream = request(&lab, "client", &To::Addr(to)).unwrap();
        echo(&mut stream, b"by socks").unwrap();
        echo(&mut stream, &vec![7; 300_000]).unwrap();
    }
    all_closed(&lab, "one");
    let counted = metrics(&lab, "one");
    for (server, security) in [("server", "mutual_tls"), ("near", "mutual_tls"), ("bare", "unknown")] {
        let labels = [
            ("reporter", "source"),
            ("source_workload", "client"),
            ("destination_workload", server),
            ("connection_security_policy", security),
            ("response_flags", "-"),
        ];
        assert_eq!(counted.sum("istio_tcp_connections_closed_total", &labels), 1.0, "{server}");
    }
    // What the proxy listens on is reached by nobody.
    for port in [15001, 15006, 15008, 15080] {
        for host in ["127.0.0.1", "10.77.1.1", "10.77.2.1"] {
            let to = format!("{host}:{port}");
            let mut stream = request(&lab, "client", &To::Addr(&to)).unwrap();
            assert!(is_turned_away(&end_of(&mut stream)), "{to}");
        }
    }
    // Neither is the DNS proxy, whose port answers whoever is connected to it.
    let query = question("web", RecordType::A).to_vec().unwrap();
    let framed = [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], &query].concat();
    let mut stream = request(&lab, "client", &To::Addr("127.0.0.1:15053")).unwrap();
    let _ = stream.write_all(&framed);
    assert!(is_turned_away(&end_of(&mut stream)));
    // Where nobody listens, the client is told so by the end, since the reply has come before.
    let mut stream = request(&lab, "client", &To::Addr("10.77.2.1:9")).unwrap();
    assert!(is_turned_away(&end_of(&mut stream)));
}

pub(crate) fn without_the_setting_nobody_listens_for_socks() {
    let lab = raise(MESH);
    assert!(dial(&lab, "client", SOCKS).is_err());
    open(&lab, "client", SERVER).unwrap();
}

pub(crate) fn a_socks_client_may_name_a_service_or_a_host_of_the_name_server() {
    let named = Named::raise_with(NAMED, RESOLV, &SETTINGS);
    for host in ["web", "web.default.svc.cluster.local", "WEB.default", "10.96.0.80"] {
        let mut stream = request(&named.lab, "client", &To::Host(host, 80)).unwrap();
        echo(&mut stream, b"by name").unwrap();
    }
    assert_eq!(named.server.asked(), []);
    // Names of others are asked for from the pod.
    request(&named.lab, "client", &To::Host("found.example.com", 80)).unwrap();
    let asked = named.server.asked();
    assert_eq!(
        (asked.len(), &*asked[0].name, asked[0].from),
        (1, "found.example.com.", "10.77.1.1".parse().unwrap())
    );
    for (host, code) in [
        ("nowhere.example.com", 4),
        ("empty.example.com", 4),
        // A service without an address of this family.
        ("theirs", 4),
        ("refused.example.com", 1),
        ("mute.example.com", 1),
    ] {
        assert_eq!(request(&named.lab, "client", &To::Host(host, 80)).err(), Some(code), "{host}");
    }
}

pub(crate) fn without_the_dns_proxy_a_socks_client_names_no_hosts() {
    let settings = [SETTINGS[0], ("ISTIO_META_DNS_CAPTURE", "false")];
    let lab = raise_with(MESH, &settings, Default::default());
    assert_eq!(request(&lab, "client", &To::Host("server.default", 9000)).err(), Some(7));
    echo(&mut request(&lab, "client", &To::Addr(SERVER)).unwrap(), b"by address").unwrap();
}

pub(crate) fn what_is_no_socks_is_turned_down_in_bounded_time_and_stops_nobody() {
    let lab = raise_with(MESH, &SETTINGS, Default::default());
    let refused = |code| vec![5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    // These say nothing, or half of something, for as long as they are let.
    let slow: Vec<TcpStream> = [&[][..], &[5], &[5, 9, 0], &[5, 1, 0, 5, 1, 0, 3, 200, b'a']]
        .into_iter()
        .map(|said| {
            let mut stream = socks(&lab, "client");
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    for (said, heard) in [
        // SOCKS 4, and no SOCKS at all.
        (&[4, 1, 0, 80, 10, 0, 0, 1, 0][..], vec![]),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", vec![]),
        // Only with a password.
        (&[5, 1, 2], vec![5, 0xff]),
        // BIND and UDP ASSOCIATE, an unknown kind of address, no port, no name.
        (&[5, 1, 0, 5, 2, 0, 1, 10, 77, 2, 1, 0, 80], refused(7)),
        (&[5, 1, 0, 5, 3, 0, 1, 10, 77, 2, 1, 0, 80], refused(7)),
        (&[5, 1, 0, 5, 1, 0, 9, 10, 77, 2, 1, 0, 80], refused(7)),
        (&[5, 1, 0, 5, 1, 0, 1, 10, 77, 2, 1, 0, 0], refused(1)),
        (&[5, 1, 0, 5, 1, 0, 3, 0, 0, 80], refused(1)),
    ] {
        assert_eq!(says(&lab, said), heard, "{said:?}");
    }
    // Clients of the same pod are served meanwhile.
    echo(&mut request(&lab, "client", &To::Addr(SERVER)).unwrap(), b"meanwhile").unwrap();
    open(&lab, "client", SERVER).unwrap();
    for mut stream in slow {
        let ended = end_of(&mut stream);
        assert!(matches!(ended, End::Closed(_) | End::Reset), "{ended:?}");
    }
    assert!(begun.elapsed() < LIMIT);
    all_closed(&lab, "one");
}

pub(crate) fn a_socks_client_that_asks_for_long_ends_with_its_pod() {
    let mut lab = raise_with(MESH, &SETTINGS, Default::default());
    let mut asking = socks(&lab, "client");
    asking.write_all(&[5, 1, 0]).unwrap();
    asking.read_exact(&mut [0; 2]).unwrap();
    let mut live = request(&lab, "client", &To::Addr(NEAR)).unwrap();
    echo(&mut live, b"live").unwrap();
    let cni = crate::zds::cni(&mut lab, "one");
    crate::zds::runtime().block_on(cni.del(&crate::zds::cni_pod(&lab, "client").uid)).unwrap();
    for stream in [&mut asking, &mut live] {
        assert!(is_turned_away(&end_of(stream)));
    }
    let refused: io::Result<TcpStream> = dial(&lab, "client", SOCKS);
    assert!(refused.is_err());
}
