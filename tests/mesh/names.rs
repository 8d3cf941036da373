//! A mesh whose pods ask for names, the name server outside of it, and both on the wire.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, NS, SOA, TXT},
    },
};
use parking_lot::Mutex;
use socket2::SockRef;
use warren::lab::{
    control::{mesh_file::Mesh, resources::ResourceFault},
    net::Namespace,
    testbed::Options,
    testing::scratch,
};

use crate::support::{LIMIT, Lab, addr, dial_from, launch, listen};

/// Nobody has this address: the rules of the pod turn what is sent there to the proxy.
pub(crate) const RESOLVER: &str = "10.96.0.10:53";
/// What the name server says of `found.example.com` and `alias.example.com`.
pub(crate) const FOUND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The address of its host, which it says of `app.example.com` and, for a moment, of `brief.example.com`.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 1);
/// What forgeries of its answers say.
const FORGED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
const FOUND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const PORT: u16 = 53;
/// How often a server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// A client that says nothing for so long makes room for the next.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pods of two namespaces and two networks, what they may ask for, and the host of the name server.
pub(crate) const NAMED: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: [10.77.1.2, 'fd77::2'], run: echo 9000}
  - {name: server, serviceAccount: server, node: two, ip: [10.77.2.1, 10.77.2.100, 'fd77::1'], run: echo 9000}
  - {name: buyer, namespace: shop, serviceAccount: buyer, node: one, ip: 10.77.1.4}
  - {name: abroad, serviceAccount: abroad, node: one, ip: 10.77.1.5, announce: {network: remote}}
outside:
  - {name: names, ip: 10.77.3.1}
  - {name: silent, ip: 10.77.3.2}
services:
  - {name: web, vips: 10.96.0.80, ports: {80: 9000}, endpoints: [near, server]}
  - {name: dual, vips: [10.96.0.81, 'fd77:96::81'], ports: {80: 9000}, endpoints: [near]}
  - {name: cart, namespace: shop, vips: 10.96.0.82, ports: {80: 9000}, endpoints: [default/near]}
  - {name: secret, namespace: shop, vips: 10.96.0.83, ports: {80: 9000}, visibility: namespace}
  - {name: peers, vips: [], ports: {9000: 9000}, endpoints: [near, server]}
  - {name: nobody, vips: [], ports: {9000: 9000}}
  - {name: both, vips: [10.96.0.84, remote/10.96.0.85], ports: {80: 9000}}
  - {name: theirs, vips: remote/10.96.0.86, ports: {80: 9000}}
  - {name: far, hostname: far.default.svc.other.local, vips: 10.96.0.87, ports: {80: 9000}}
  - {name: api, hostname: api.example.com, vips: 10.96.0.88, ports: {80: 9000}}
  - {name: wide, hostname: '*.wild.example.com', vips: 10.96.0.89, ports: {80: 9000}}
  - {name: wider, hostname: '*.deep.wild.example.com', vips: 10.96.0.90, ports: {80: 9000}}
  - {name: plain, hostname: plain.example.com, vips: [], ports: {80: 9000}, endpoints: [near]}
  - {name: block, hostname: block.example.com, vips: 10.97.0.0/24, ports: {80: 9000}, endpoints: [near]}
";
/// What the proxy is told of the name server. A search list is for those who ask, not for what is passed on.
pub(crate) const RESOLV: &str =
    "search example.com\nnameserver 10.77.3.1\noptions ndots:5 timeout:1 attempts:2\n";

/// A mesh whose proxies answer for names, and the name server that they ask themselves.
pub(crate) struct Named {
    // Dropped before its host.
    pub server: NameServer,
    pub lab: Lab,
}

/// A name server that knows a few names. It ends when it is dropped.
pub(crate) struct NameServer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    asked: Mutex<Vec<Asked>>,
}

/// A question that reached the name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub from: IpAddr,
    /// In lower case, with its last dot.
    pub name: String,
    pub kind: RecordType,
}

/// The transport of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Udp,
    Tcp,
}

/// The number of addresses behind `many.example.com`: whole by TCP, where their names are not repeated.
pub(crate) const MANY: u32 = 1_900;

/// How a question comes in.
pub(crate) const BOTH: [By; 2] = [By::Udp, By::Tcp];

// === impl Named ===

impl Named {
    pub(crate) fn raise(mesh: &str) -> Self {
        Self::raise_with(mesh, RESOLV, &[])
    }

    /// With a resolv.conf and further settings.
    pub(crate) fn raise_with(mesh: &str, resolv: &str, settings: &[(&str, &str)]) -> Self {
        let file = scratch().join("resolv.conf");
        fs::write(&file, resolv).unwrap();
        let launch = launch().env("WARREN_RESOLV_CONF", file.to_str().unwrap());
        let launch = settings.iter().fold(launch, |launch, (name, value)| launch.env(*name, *value));
        let mesh = Mesh::parse(mesh).unwrap_or_else(|error| panic!("{error}"));
        let options =
            Options { id: "m".to_owned(), directory: scratch(), proxy: Some(launch), ready_limit: LIMIT };
        let lab = Lab::up(mesh, true, options).unwrap_or_else(|error| panic!("{error}"));
        Self { server: NameServer::start(lab.outside("names").unwrap()), lab }
    }

    /// Makes the mesh that of `text`, and waits until the proxies have answered.
    pub(crate) fn change(&mut self, text: &str) {
        let mesh = Mesh::parse(text).unwrap_or_else(|error| panic!("{error}"));
        self.lab.update(mesh, true).unwrap_or_else(|error| panic!("{error}"));
        self.lab.services().settle(LIMIT).unwrap();
    }

    /// Has the control plane say something else of a resource, and waits until the proxies have answered.
    pub(crate) fn inject(&mut self, name: &str, how: Option<ResourceFault>) {
        self.lab.services().control().unwrap().inject(name, how);
        self.lab.services().settle(LIMIT).unwrap();
    }

    pub(crate) fn ask(&self, pod: &str, name: &str, kind: RecordType) -> Message {
        self.ask_by(By::Udp, pod, &question(name, kind))
    }

    #[track_caller]
    pub(crate) fn ask_by(&self, by: By, pod: &str, query: &Message) -> Message {
        answer_to(query, &self.send(by, pod, &query.to_vec().unwrap()))
    }

    pub(crate) fn send(&self, by: By, pod: &str, query: &[u8]) -> Vec<u8> {
        exchange(self.lab.pod(pod).unwrap(), by, RESOLVER, query)
    }

    /// The names that the name server was asked for.
    pub(crate) fn passed_names(&self) -> BTreeSet<String> {
        self.server.asked().into_iter().map(|asked| asked.name).collect()
    }
}

// === impl NameServer ===

impl NameServer {
    /// Serves on port 53 of `host`, of both transports.
    pub(crate) fn start(host: &Namespace) -> Self {
        let udp = host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).unwrap().unwrap();
        udp.set_read_timeout(Some(LOOK)).unwrap();
        let tcp = listen(host, PORT);
        // On Linux this bounds accept too.
        SockRef::from(&tcp).set_read_timeout(Some(LOOK)).unwrap();
        let shared = Arc::new(Shared::default());
        let (one, other) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads =
            vec![thread::spawn(move || one.serve_udp(&udp)), thread::spawn(move || other.serve_tcp(&tcp))];
        Self { shared, threads }
    }

    /// What it was asked until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking(), "the name server has panicked");
        }
    }
}

// === impl Shared ===

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while !self.is_stopped() {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let Some(query) = self.read(&buffer[..length], from) else { continue };
            let Some(whole) = reply(&query) else { continue };
            for reply in forgeries(&query, &whole).iter().chain([&whole]) {
                let mut bytes = reply.to_vec().unwrap();
                if bytes.len() > usize::from(query.max_payload()) {
                    bytes = reply.truncate().to_vec().unwrap();
                }
                // Who asked may be gone.
                let _ = socket.send_to(&bytes, from);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        // Those who are not answered are not hung up on either.
        let mut waiting = Vec::new();
        while !self.is_stopped() {
            let Ok((mut stream, from)) = listener.accept() else { continue };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let Ok(bytes) = read_framed(&mut stream) else { continue };
            let Some(query) = self.read(&bytes, from) else { continue };
            match reply(&query) {
                // Who asked may be gone.
                Some(reply) => drop(write_framed(&mut stream, &reply.to_vec().unwrap())),
                None => waiting.push(stream),
            }
        }
    }

    fn read(&self, bytes: &[u8], from: SocketAddr) -> Option<Message> {
        let query = Message::from_vec(bytes).ok()?;
        let question = query.queries.first()?;
        self.asked.lock().push(Asked {
            from: from.ip().to_canonical(),
            name: question.name().to_ascii().to_lowercase(),
            kind: question.query_type(),
        });
        Some(query)
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// All that the name server knows, whole; `None` is no answer at all.
fn reply(query: &Message) -> Option<Message> {
    let question = query.queries.first()?;
    let owner = question.name();
    let address = |ip| Record::from_rdata(owner.clone(), 300, RData::A(A(ip)));
    let mut reply = Message::response(query.id, query.op_code);
    // Nobody but the proxy has the say on what the mesh does not know.
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    reply.add_query(question.clone());
    if query.edns.is_some() {
        reply.set_edns(Edns::new());
    }
    match (owner.to_ascii().to_lowercase().as_str(), question.query_type()) {
        ("app.example.com.", RecordType::A) => {
            reply.add_answer(address(OWN));
        }
        ("brief.example.com.", RecordType::A) => {
            reply.add_answer(Record::from_rdata(owner.clone(), 0, RData::A(A(OWN))));
        }
        ("app.example.com." | "brief.example.com.", _) => {}
        ("mute.example.com.", _) => return None,
        (
            "found.example.com." | "plain.example.com." | "block.example.com." | "forged.example.com.",
            RecordType::A,
        ) => {
            reply.add_answer(address(FOUND));
        }
        ("found.example.com.", RecordType::AAAA) => {
            reply.add_answer(Record::from_rdata(owner.clone(), 300, RData::AAAA(AAAA(FOUND_V6))));
        }
        ("found.example.com.", RecordType::TXT) => {
            let text = RData::TXT(TXT::new(vec!["hello".to_owned()]));
            reply.add_answer(Record::from_rdata(owner.clone(), 300, text));
        }
        ("alias.example.com.", RecordType::A) => {
            let found = name("found.example.com.");
            reply.add_answer(Record::from_rdata(owner.clone(), 300, RData::CNAME(CNAME(found.clone()))));
            reply.add_answer(Record::from_rdata(found, 300, RData::A(A(FOUND))));
        }
        ("many.example.com.", RecordType::A) => {
            reply.add_answers((0..MANY).map(|n| address(Ipv4Addr::from_bits(0xC612_0000 + n))));
        }
        ("found.example.com." | "empty.example.com.", _) => {}
        ("refused.example.com.", _) => reply.metadata.response_code = ResponseCode::Refused,
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    add_the_rest(&mut reply);
    Some(reply)
}

/// Sections of which one is not to be passed on, and the other is.
fn add_the_rest(reply: &mut Message) {
    let zone = name("example.com.");
    let server = name("ns.example.com.");
    if reply.answers.is_empty() {
        let soa = SOA::new(server, name("root.example.com."), 1, 3600, 600, 86_400, 60);
        reply.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
    } else {
        reply.add_authority(Record::from_rdata(zone, 300, RData::NS(NS(server.clone()))));
        let glue = RData::A(A(Ipv4Addr::new(192, 0, 2, 53)));
        reply.add_additional(Record::from_rdata(server, 300, glue));
    }
}

/// What comes before an answer that somebody wants to forge: another id, another question.
fn forgeries(query: &Message, whole: &Message) -> Vec<Message> {
    if query.queries.iter().all(|question| *question.name() != name("forged.example.com.")) {
        return Vec::new();
    }
    let mut forged = whole.clone();
    for answer in &mut forged.answers {
        answer.data = RData::A(A(FORGED));
    }
    let (mut wrong_id, mut wrong_question) = (forged.clone(), forged);
    wrong_id.metadata.id ^= 1;
    wrong_question.queries[0].set_name(name("other.example.com."));
    vec![wrong_id, wrong_question]
}

/// A question about `text`, which is taken as it is.
pub(crate) fn question(text: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name(&format!("{text}.")), kind));
    query
}

/// The bytes of `query` with an OPT record that offers `payload`, also when that is less than there may be.
pub(crate) fn offering(mut query: Message, payload: u16, dnssec_ok: bool) -> Vec<u8> {
    let mut edns = Edns::new();
    edns.set_dnssec_ok(dnssec_ok);
    query.set_edns(edns);
    let mut bytes = query.to_vec().unwrap();
    // An OPT record without options ends in its class (2), which is the payload, its TTL (4) and its length (2).
    let at = bytes.len() - 8;
    bytes[at..at + 2].copy_from_slice(&payload.to_be_bytes());
    bytes
}

/// A socket in `namespace` that talks to `to` alone.
pub(crate) fn socket(namespace: &Namespace, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = namespace.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// The next datagram.
pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// Writes a message with its length before it.
pub(crate) fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat())
}

/// Reads such a message.
pub(crate) fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Sends `query` from inside `namespace`; what comes back.
pub(crate) fn exchange(namespace: &Namespace, by: By, to: &str, query: &[u8]) -> Vec<u8> {
    match by {
        By::Udp => {
            let socket = socket(namespace, addr(to));
            socket.send(query).unwrap();
            receive(&socket)
        }
        By::Tcp => {
            let mut stream = dial_from(namespace, addr(to)).unwrap();
            write_framed(&mut stream, query).unwrap();
            read_framed(&mut stream).unwrap()
        }
    }
}

/// The answer in `bytes`, which is one to `query`.
#[track_caller]
pub(crate) fn answer_to(query: &Message, bytes: &[u8]) -> Message {
    let answer = Message::from_vec(bytes).unwrap();
    // Letter by letter: clients vary the case to make forgeries harder.
    let asked = |message: &Message| {
        let ask = |query: &Query| (query.name().to_ascii(), query.query_type());
        message.queries.iter().map(ask).collect::<Vec<_>>()
    };
    assert_eq!(answer.message_type, MessageType::Response);
    assert_eq!((answer.id, asked(&answer)), (query.id, asked(query)));
    assert_eq!(answer.recursion_desired, query.recursion_desired);
    answer
}

/// `name type value` of each record of the answer, sorted.
pub(crate) fn records(answer: &Message) -> Vec<String> {
    let mut records: Vec<String> = answer.answers.iter().map(record).collect();
    records.sort();
    records
}

/// `name type value`.
pub(crate) fn record(record: &Record) -> String {
    format!("{} {} {}", record.name.to_ascii(), record.record_type(), record.data)
}

fn sorted(records: &[&str]) -> Vec<String> {
    let mut sorted: Vec<String> = records.iter().map(|&record| record.to_owned()).collect();
    sorted.sort();
    sorted
}

/// Holds an answer out of the mesh to what all of them are like, and to its records.
#[track_caller]
pub(crate) fn served(answer: &Message, wanted: &[&str]) {
    assert_eq!(answer.response_code, ResponseCode::NoError, "{answer:?}");
    assert!(answer.authoritative && answer.recursion_available && !answer.truncation, "{answer:?}");
    assert!(answer.answers.iter().all(|record| record.ttl == 30), "{answer:?}");
    assert!(answer.authorities.is_empty() && answer.additionals.is_empty(), "{answer:?}");
    assert_eq!(records(answer), sorted(wanted));
}

/// Holds an answer of the name server to what all that are passed on are like, and to its records.
#[track_caller]
pub(crate) fn passed_on(answer: &Message, code: ResponseCode, wanted: &[&str]) {
    assert_eq!(answer.response_code, code, "{answer:?}");
    assert!(!answer.authoritative && !answer.truncation, "{answer:?}");
    assert!(answer.authorities.is_empty(), "{answer:?}");
    assert_eq!(records(answer), sorted(wanted));
}

/// Nobody knows it.
#[track_caller]
pub(crate) fn unknown(answer: &Message) {
    passed_on(answer, ResponseCode::NXDomain, &[]);
}
