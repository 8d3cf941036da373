//! What single steps cost: `cargo bench`, or `cargo bench -- NAME` for those whose name contains it. Each is repeated
//! for a while in batches; the fastest batch is shown, which other programs disturb least.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "tasks are owned by the LocalSet they run in")]

use std::{
    env,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Waker},
    time::{Duration, Instant},
};

use prost::Message;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::{LocalSet, spawn_local},
};
use warren::{
    lab::control::{
        ca::{Authority, CaOptions},
        resources::{ADDRESS, Resources},
    },
    protocols::{
        addr::OrigDst,
        ca::{chain::Chain, csr},
        config::{Http2Config, TlsConfig},
        hbone::{
            client::{self, ConnectRequest},
            frames::{Frames, Role},
            headers::TraceParent,
            io::coalesced,
            server,
            side::{Received, StreamSide},
        },
        identity::Identity,
        labels::{Endpoint, Reporter, Security, ServiceName, TrafficLabels},
        mesh::{
            Change, LocalNode, Mesh,
            policy::{Policy, PolicyChange, PolicyTable},
        },
        outcome::ResponseFlag,
        pb::{security as az, workload as wl},
        rbac::{Destination, Flow, Verdict, evaluate},
        relay::{Meter, relay, tcp::TcpSide},
        route::{Pick, Source, outbound},
        tls::{WorkloadCert, buffer::Buffers, handshake, stream::TlsStream},
    },
    runtime::shard::watched,
    telemetry::{
        trace::span::{SpanKind, Spans, Step},
        traffic::TrafficTable,
    },
};

const WORKLOADS: u32 = 100_000;
/// Changes that are applied without a pause, as the proxy does.
const CHANGES_PER_TURN: usize = 256;
const BATCHES: u32 = 20;
const BATCH: Duration = Duration::from_millis(20);
/// What a client of a relay sends at once: little, or much.
const MESSAGE: usize = 128;
const BULK: usize = 4 << 20;

fn main() {
    // Cargo adds `--bench`.
    let filter = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    if wanted("xds apply") || wanted("route") {
        let mesh = apply();
        if wanted("route") {
            routes(&mesh);
        }
    }
    if wanted("policy") {
        policies();
    }
    if wanted("metrics") {
        metrics();
    }
    if wanted("account") {
        accounts();
    }
    if wanted("supervision") {
        supervision();
    }
    if wanted("tracing") {
        tracing_off();
    }
    if wanted("handshake") {
        handshakes();
    }
    for (name, joined) in
        [("relay, plain to plain", plain as Joining), ("relay, through a tunnel", tunnelled)]
    {
        if wanted(name) {
            relays(name, joined);
        }
    }
}

/// What it takes to keep account of the frames of a tunnel with 100 open streams.
fn accounts() {
    const HEADERS: (u8, u8) = (1, 4);
    const DATA: (u8, u8) = (0, 0);
    const LAST: (u8, u8) = (0, 1);
    let frame = |(kind, flags): (u8, u8), stream: u32| {
        let [_, l0, l1, l2] = (MESSAGE as u32).to_be_bytes();
        let mut frame = vec![l0, l1, l2, kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.resize(frame.len() + MESSAGE, 0);
        frame
    };
    let mut frames = Frames::new(Role::Client);
    // The client's preface.
    frames.sent(&[0; 24]);
    for stream in (1..200).step_by(2) {
        frames.sent(&frame(HEADERS, stream));
        frames.received(&frame(HEADERS, stream));
    }
    let (request, answer) = (frame(DATA, 99), frame(DATA, 99));
    repeat("account, a request, an answer", || {
        frames.begin_turn();
        frames.sent(&request);
        frames.received(&answer);
    });
    let mut stream = 199;
    repeat("account, a connection", || {
        stream += 2;
        frames.begin_turn();
        for kind in [HEADERS, DATA, LAST] {
            frames.sent(&frame(kind, stream));
            frames.received(&frame(kind, stream));
        }
    });
}

/// A large mesh, decoded and applied as it comes from the control plane.
fn apply() -> Mesh {
    let mut resources = Resources::default();
    resources.add_bulk(WORKLOADS);
    let encoded: Vec<_> = resources.of_type(ADDRESS).unwrap().values().map(|one| one.value.clone()).collect();
    let local = LocalNode {
        network: String::new(),
        node: Some("bulk-node-0".to_owned()),
        cluster_domain: "cluster.local".to_owned(),
    };
    let mesh = Mesh::new(local);
    let mut writer = mesh.writer();
    let begun = Instant::now();
    let mut changes = encoded
        .iter()
        .map(|bytes| Change::decode(wl::Address::decode(bytes.clone()).unwrap()).unwrap())
        .peekable();
    while changes.peek().is_some() {
        writer.apply(changes.by_ref().take(CHANGES_PER_TURN));
    }
    assert_eq!(mesh.workload_count(), WORKLOADS as usize);
    println!("{:34}{:>10.0} ms", "xds apply, 100,000 workloads", begun.elapsed().as_secs_f64() * 1e3);
    mesh
}

fn routes(mesh: &Mesh) {
    let source = mesh.workload("Kubernetes//Pod/bulk-0/bulk-0").unwrap();
    let source = Source { workload: &source, client: "10.128.0.0".parse().unwrap() };
    let mut rng = SmallRng::seed_from_u64(1);
    // Those of `Resources::add_bulk`.
    for (name, to) in
        [("route, to a workload", "10.128.10.10:8080"), ("route, to a service", "10.200.0.0:80")]
    {
        let to = OrigDst::new(to.parse().unwrap());
        let route = outbound(
            mesh,
            &source,
            to,
            &mut Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: () },
        )
        .unwrap();
        assert!(route.destination.is_some(), "{name}");
        repeat(name, || {
            outbound(
                black_box(mesh),
                &source,
                black_box(to),
                &mut Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: () },
            )
        });
    }
}

fn policies() {
    let change = |number: u32| {
        let name = format!("policy-{number}");
        let ports = az::Match { destination_ports: vec![number], ..Default::default() };
        let clauses = vec![az::Clause { matches: vec![ports] }];
        let policy = az::Authorization {
            namespace: "bench".to_owned(),
            scope: az::Scope::Namespace.into(),
            action: az::Action::Deny.into(),
            rules: vec![az::Rule { clauses }],
            name: name.clone(),
            ..Default::default()
        };
        PolicyChange::Upsert(Policy::decode(&format!("bench/{name}"), policy).0)
    };
    let table = PolicyTable::default().with((1..=100).map(change).collect());
    let destination = Destination::<&str> { namespace: "bench", policies: &[] };
    let flow =
        Flow { src: "10.0.0.1:5000".parse().unwrap(), identity: None, dst: "10.0.0.2:8080".parse().unwrap() };
    assert_eq!(evaluate(&table, &destination, &flow, &|_| false, &mut |_| ()), Verdict::Allow);
    repeat("policy, 100 that do not match", || {
        matches!(
            evaluate(black_box(&table), &destination, black_box(&flow), &|_| false, &mut |_| ()),
            Verdict::Allow
        )
    });
}

fn metrics() {
    let table = TrafficTable::new(1000);
    let end = Endpoint { workload: Some("web"), namespace: Some("bench"), ..Endpoint::default() };
    let labels = TrafficLabels {
        reporter: Reporter::Source,
        source: end,
        destination: end,
        service: ServiceName { hostname: Some("web.bench.svc.cluster.local"), ..ServiceName::default() },
        security: Security::MutualTls,
    };
    repeat("metrics, a connection", || {
        let traffic = table.open(black_box(&labels));
        traffic.sent(1);
        traffic.close(ResponseFlag::Ok);
    });
    let traffic = table.open(&labels);
    repeat("metrics, a chunk of bytes", || traffic.received(black_box(1)));
}

/// What it costs that a panic of a connection is caught, and can be ordered: polls of a task without that, and with it.
fn supervision() {
    let bare = pin!(async { std::future::pending::<()>().await });
    polls("supervision, 100 polls without", bare);
    let watched = pin!(watched("bench", async { std::future::pending::<()>().await }, drop));
    polls("supervision, 100 polls with", watched);
}

fn polls(name: &str, mut work: Pin<&mut impl Future>) {
    let mut cx = Context::from_waker(Waker::noop());
    repeat(name, || {
        for _ in 0..100 {
            _ = black_box(black_box(work.as_mut()).poll(&mut cx));
        }
    });
}

/// What the spans of an outbound connection cost while nobody records them: they are asked for, and are not there.
fn tracing_off() {
    let quiet = tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).finish();
    let _quiet = tracing::subscriber::set_default(quiet);
    let mut cx = Context::from_waker(Waker::noop());
    repeat("tracing, a connection, off", || {
        let work = async {
            for name in ["capture", "wait for identity", "route", "CONNECT", "relay"] {
                let step = Step::new(name, SpanKind::Internal);
                step.within(async { black_box(()) }).await;
                step.describe(|span| _ = span.failed("bench", name));
            }
        };
        let logged = tracing::debug_span!(target: "conn", "outbound", peer = black_box(1));
        let mut work = pin!(Spans::new(logged, "outbound", None).around(work));
        work.as_mut().poll(&mut cx)
    });
}

/// Both sides of a TLS handshake over loopback, as two proxies make it for each tunnel. Nothing is resumed.
fn handshakes() {
    let runtime = runtime();
    let (one, other) = certificates();
    repeat("handshake, both sides", || {
        runtime.block_on(async {
            let (near, far) = tcp().await;
            secured((near, far), (&one, &other)).await
        })
    });
}

type Joining = fn(&LocalSet, &Runtime) -> (TcpStream, TcpStream);

/// What a small message and its answer take, and how fast many bytes go, between a client and a server in one thread
/// with all that is between them.
fn relays(name: &str, join: Joining) {
    let (runtime, local) = (runtime(), LocalSet::new());
    let (mut client, mut server) = join(&local, &runtime);
    let (mut sent, mut got) = (vec![1; MESSAGE], vec![0; MESSAGE]);
    repeat(&format!("{name}, there and back"), || {
        local.block_on(&runtime, async {
            client.write_all(&sent).await.unwrap();
            server.read_exact(&mut got).await.unwrap();
            server.write_all(&got).await.unwrap();
            client.read_exact(&mut sent).await.unwrap();
        });
    });
    let sent = vec![1; BULK];
    let mut got = vec![0; 256 * 1024];
    let fastest = fastest(1, || {
        local.block_on(&runtime, async {
            let receive = async {
                let mut left = BULK;
                while left > 0 {
                    left -= server.read(&mut got).await.unwrap();
                }
            };
            let (sending, ()) = tokio::join!(client.write_all(&sent), receive);
            sending.unwrap();
        });
    });
    println!("{:34}{:>10.2} Gbit/s", format!("{name}, bytes"), BULK as f64 * 8.0 / fastest / 1e9);
}

/// A client and a server with a relay between two plain sockets.
fn plain(local: &LocalSet, runtime: &Runtime) -> (TcpStream, TcpStream) {
    local.block_on(runtime, async {
        let ((client, near), (far, server)) = (tcp().await, tcp().await);
        spawn_local(async move {
            relay(TcpSide::new(near), TcpSide::new(far), &Uncounted, &Buffers::default()).await
        });
        (client, server)
    })
}

/// A client and a server with two relays and a stream of a tunnel over TLS between them.
fn tunnelled(local: &LocalSet, runtime: &Runtime) -> (TcpStream, TcpStream) {
    let (one, other) = certificates();
    local.block_on(runtime, async {
        let ((client, near), (far, app)) = (tcp().await, tcp().await);
        let (dialled, accepted) = secured(tcp().await, (&one, &other)).await;
        spawn_local(async move {
            let (io, mut flush) = coalesced(accepted, Role::Server);
            let settings = Http2Config::default();
            let mut tunnel =
                flush.drive(Instant::now, server::handshake(io, &settings)).await.unwrap().unwrap();
            let mut far = Some(far);
            let streams = async {
                while let Some(Ok((request, mut respond))) = tunnel.accept().await {
                    let send = server::accept(&mut respond, None).unwrap();
                    let (peer, app) = (
                        StreamSide::new(send, Received::new(request.into_body())),
                        TcpSide::new(far.take().unwrap()),
                    );
                    spawn_local(async move { relay(peer, app, &Uncounted, &Buffers::default()).await });
                }
            };
            flush.drive(Instant::now, streams).await
        });
        let (io, mut flush) = coalesced(dialled, Role::Client);
        let (send, connection) =
            flush.drive(Instant::now, client::handshake(io, &Http2Config::default())).await.unwrap().unwrap();
        spawn_local(async move { flush.drive(Instant::now, connection).await });
        let request = ConnectRequest {
            authority: "10.0.0.1:8080".parse().unwrap(),
            baggage: None,
            forwarded: None,
            trace: TraceParent::random(&mut SmallRng::seed_from_u64(1)),
            network: None,
        };
        let (stream, _) = client::connect(send, request, bytes::Bytes::new()).await.unwrap();
        spawn_local(async move { relay(TcpSide::new(near), stream, &Uncounted, &Buffers::default()).await });
        (client, app)
    })
}

struct Uncounted;

impl Meter for Uncounted {
    fn forward(&self, _: usize) {}
    fn backward(&self, _: usize) {}
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Both ends of a connection over loopback, set up as those of the proxy are.
async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(to), listener.accept());
    let ends = (near.unwrap(), far.unwrap().0);
    ends.0.set_nodelay(true).and_then(|()| ends.1.set_nodelay(true)).unwrap();
    ends
}

/// Two certificates of one authority.
fn certificates() -> (WorkloadCert, WorkloadCert) {
    let authority = Authority::new(CaOptions::default()).unwrap();
    let certificate = |account: &str| {
        let identity = identity(account);
        let request = csr::request(&identity).unwrap();
        let chain = authority.sign(&request.pem, None, Duration::from_secs(3600)).unwrap();
        let chain = Chain::parse(&chain, Some(&identity)).unwrap();
        WorkloadCert::new(chain, &request.key, &TlsConfig::default()).unwrap()
    };
    (certificate("one"), certificate("other"))
}

fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/bench/sa/{account}").parse().unwrap()
}

/// Both ends of a TLS connection.
async fn secured(
    (near, far): (TcpStream, TcpStream),
    (one, other): (&WorkloadCert, &WorkloadCert),
) -> (TlsStream<TcpStream>, TlsStream<TcpStream>) {
    let name = near.peer_addr().unwrap().ip().into();
    let connect = handshake::connect(one.client_config(&[identity("other")]), name, near, Buffers::default());
    let accept = handshake::accept(other.server_config(), far, Buffers::default());
    let (connected, accepted) = tokio::join!(connect, accept);
    (connected.unwrap().0, accepted.unwrap().0)
}

/// Shows how long one takes.
fn repeat<T>(name: &str, one: impl FnMut() -> T) {
    println!("{name:34}{:>10.0} ns", fastest(100, one) * 1e9);
}

/// Seconds that one takes, in the fastest of some batches, each a multiple of `step`.
fn fastest<T>(step: u32, mut one: impl FnMut() -> T) -> f64 {
    let mut fastest = f64::INFINITY;
    for _ in 0..BATCHES {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < BATCH {
            for _ in 0..step {
                black_box(one());
            }
            count += step;
        }
        fastest = fastest.min(begun.elapsed().as_secs_f64() / f64::from(count));
    }
    fastest
}
